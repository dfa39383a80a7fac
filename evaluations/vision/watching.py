"""Questions about videos made ready for one model: frames read, prompts composed, frames judged, a video at a time.

What cannot be read (no such file, no frame in it, no subtitles) is a fault of the questions about it: they are told as
failed and not scored, and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.tasks.video.base import VideoItem, VideoTask
from evaluations.tasks.video.subtitles import interleaved
from evaluations.vision.seen import seen_clip
from modalities.vision.frames import Clip, part_of
from modalities.vision.judge import Judge, best_frames, novelty, relevance, token_grades
from modalities.vision.prompts import Composer, Scene, ScenePrompt
from namm.errors import DataError
from namm.policies.fastv import PICTURES


@dataclass(frozen=True)
class Failed:
    """A question that could not be asked."""

    id: str
    error: str

    def told(self) -> dict[str, str]:
        """For a row."""
        return {"id": self.id, "error": self.error}


@dataclass(frozen=True)
class Judged:
    """What a CLIP thinks of the frames of a video, asked one question."""

    relevance: Float[Tensor, " frames"]
    novelty: Float[Tensor, " frames"]
    words: tuple[int, ...]
    """Of each frame, which label fits best."""


@dataclass(frozen=True)
class Watched:
    """A question ready to be asked."""

    item: VideoItem
    clip: Clip
    prompt: ScenePrompt
    evidence: tuple[int, ...]
    """Which of the seen frames show the answer; the nearest, where the very one is not seen."""
    judged: Judged | None
    shown: tuple[int, ...]
    """Which of the clip's frames the model reads."""

    @property
    def frames(self) -> int:
        """Seen."""
        return len(self.clip.seconds)

    @property
    def age(self) -> int | None:
        """Frames that are seen after the last one that shows the answer."""
        return self.frames - 1 - max(self.evidence) if self.evidence else None


@dataclass
class Watching:
    """Makes the questions of one task ready."""

    task: VideoTask
    composer: Composer
    judge: Judge | None
    labels: Sequence[str]
    limit: int | None = None
    _held: dict[int, list[Watched | Failed]] = field(default_factory=dict)
    _words: Float[Tensor, "labels features"] | None = None

    def questions(self, seed: int) -> Iterator[Watched | Failed]:
        """The questions of a seed, those about one video together; drawn ones are kept for the next policy."""
        if seed in self._held:
            yield from self._held[seed]
            return
        made: list[Watched | Failed] = []
        items = sorted(self.task.items(seed, self.limit), key=lambda item: item.clip)  # stable
        for number, (_, about) in enumerate(groupby(items, key=lambda item: item.clip)):
            for one in self._about(list(about), number):
                if self.task.drawn:
                    made.append(one)
                yield one
        if self.task.drawn:
            self._held = {seed: made}

    def chosen(self, watched: Watched, count: int) -> Watched:
        """The same question about the frames that fit it best, which are all that is read.

        Args:
            watched: Judged.
            count: Frames to read.

        Raises:
            DataError: Nobody judged.
        """
        if watched.judged is None:
            raise DataError("expected a CLIP to choose frames by, found none; pass --clip")
        shown = best_frames(watched.judged.relevance, count)
        scene = self._scene(part_of(watched.clip, shown), watched.item, watched.prompt.scene.number)
        prompt = scene.prompt(watched.item.question, self.task.new_tokens)
        return replace(watched, prompt=prompt, shown=tuple(shown))

    def _about(self, items: Sequence[VideoItem], number: int) -> Iterator[Watched | Failed]:
        """Everything asked about one video."""
        try:
            clip = seen_clip(items[0], self.task.sampling, self.task.seen_frames)
            scene = self._scene(clip, items[0], number)
            pictures = None if self.judge is None else self.judge.frames(clip.frames)
        except DataError as error:
            yield from (Failed(item.id, str(error)) for item in items)
            return
        for item in items:
            try:
                yield self._ready(item, clip, scene, pictures)
            except DataError as error:
                yield Failed(item.id, str(error))

    def _scene(self, clip: Clip, item: VideoItem, number: int) -> Scene:
        """The clip as one video; where something is said in it, each frame by itself with the lines between them."""
        if item.subtitles is None:
            return self.composer.scene(clip, number)
        parts = interleaved(clip.seconds, item.subtitles())
        content = [part if isinstance(part, str) else part_of(clip, [part]) for part in parts]
        return self.composer.scene(content, number)

    def _ready(
        self, item: VideoItem, clip: Clip, scene: Scene, pictures: Float[Tensor, "frames features"] | None
    ) -> Watched:
        prompt = scene.prompt(item.question, self.task.new_tokens)
        grades = {PICTURES: token_grades(scene.places, torch.zeros(len(clip.seconds)))}
        judged = None
        if pictures is not None:
            assert self.judge is not None  # it has looked at them
            question = self.judge.texts([item.shown_question])[0]
            words = (pictures @ self._label_texts().T).argmax(-1)
            judged = Judged(relevance(pictures, question), novelty(pictures), tuple(words.tolist()))
            worth = {"relevance": judged.relevance, "redundancy": judged.novelty}
            grades |= {name: token_grades(scene.places, of) for name, of in worth.items()}
        prompt = replace(prompt, grades=grades)
        near = [int(np.abs(np.array(clip.indices) - frame).argmin()) for frame in item.evidence]
        return Watched(item, clip, prompt, tuple(sorted(set(near))), judged, tuple(range(len(clip.seconds))))

    def _label_texts(self) -> Float[Tensor, "labels features"]:
        if self._words is None:
            assert self.judge is not None  # only asked where there is one
            self._words = self.judge.texts(self.labels)
        return self._words


def rank_correlation(first: Float[Tensor, " frames"], second: Float[Tensor, " frames"]) -> float | None:
    """Spearman's, of two values of each frame; None where one of them is the same for all frames."""
    from scipy.stats import spearmanr

    ranked: Any = spearmanr
    if len(first) < 2 or bool((first == first[0]).all()) or bool((second == second[0]).all()):
        return None
    return float(ranked(first.numpy(), second.numpy()).statistic)
