"""The model, the NAMM, the CLIP and the tasks of a video experiment, loaded and checked before anything is watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluations.tasks.video.base import VideoOptions
from evaluations.tasks.video.tasks import OWN, make_task
from evaluations.vision.cells import VideoRunner, WatchingOptions
from evaluations.vision.loading import LoadedModel, ModelOptions
from evaluations.vision.shipped import DRAWN, SCENES
from evaluations.vision.watching import Watching
from modalities.vision.judge import Judge
from namm import NAMM
from namm.errors import DataError


@dataclass(frozen=True)
class VideoSetup:
    """What a process needs to know to play any unit of a video experiment."""

    model: ModelOptions
    tasks: tuple[str, ...]
    videos: VideoOptions
    limit: int | None
    namm: Path | None
    clip: str | None
    labels: Path | None
    reading: WatchingOptions
    folder: Path
    threads: int

    def load(self, index: int = 0) -> dict[str, VideoRunner]:
        """A runner for every task, by name.

        Args:
            index: Of this process among those of this machine; where there are several GPUs, each gets its own.

        Raises:
            NammError: Anything wrong with the model, its files, the NAMM, the CLIP or a task.
        """
        tasks = {name: make_task(name, self.videos) for name in self.tasks}  # before a large model is loaded
        for task in tasks.values():
            task.items(limit=1)
        labels = None if self.labels is None else read_labels(self.labels)
        loaded = LoadedModel(self.model, index)
        namm = None if self.namm is None else NAMM.from_pretrained(self.namm).to(loaded.model.device)
        judged_by = self.clip or loaded.own_clip
        judge = None if judged_by is None else Judge(judged_by, loaded.model.device)
        found = {}
        for name, task in tasks.items():
            own = labels or (DRAWN if name in OWN else SCENES)
            watching = Watching(task, loaded.composer, judge, own, self.limit)
            found[name] = VideoRunner(name, task, watching, loaded, namm, self.reading, self.folder)
        return found


def read_labels(path: Path) -> Sequence[str]:
    """Words for what a frame may show, one a line.

    Raises:
        DataError: The file cannot be read, or has fewer than two.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected a file of words, one a line, at {path}, found: {error}") from None
    if len(lines) < 2:
        raise DataError(f"{path}: expected two words or more to choose among, found {len(lines)}")
    return tuple(dict.fromkeys(lines))
