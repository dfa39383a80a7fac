"""MLVU: videos of 3 minutes to 2 hours, seven kinds of questions with options (Zhou et al., 2024).

The folder is its makers': `json/1_plotQA.json` and so on, `video/1_plotQA/`; also where both lie in a folder MLVU.
Each kind is a task of its own, and their plain mean is what the makers call M-Avg. The two kinds whose answers are
written freely need a judge, and are only named.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from evaluations.tasks.text.records import Record
from evaluations.tasks.video.base import VideoItem, VideoOptions, VideoTask
from evaluations.tasks.video.choices import LETTERS, chosen_option, read_template, worded
from evaluations.tasks.video.files import content_of, data_folder, items_of, seconds_of
from namm.errors import ConfigError

FILES = {
    "plotQA": "1_plotQA",
    "needle": "2_needle",
    "ego": "3_ego",
    "count": "4_count",
    "order": "5_order",
    "anomaly_reco": "6_anomaly_reco",
    "topic_reasoning": "7_topic_reasoning",
}
"""Tasks with options, and where each lies."""
JUDGED = ("sub_scene", "summary")
"""Tasks whose answers are written freely: who scores them is a judge, and there is none here."""


class MLVU(VideoTask):
    """One kind of question."""

    name = "mlvu"
    sampling = "ends"
    frames = 16
    new_tokens = 16

    def __init__(self, options: VideoOptions, kind: str = "plotQA") -> None:
        """Args:
        options: What it is made with.
        kind: One of `FILES`.

        Raises:
            ConfigError: The kind is no such one, or there is no folder.
        """
        super().__init__(options)
        if kind in JUDGED:
            raise ConfigError(
                f"mlvu/{kind} has answers in free words, which need a judge; expected one of {', '.join(FILES)}"
            )
        folder = data_folder("mlvu", options)
        inner = folder / "MLVU"
        self.folder = inner if inner.is_dir() else folder
        self.kind = kind
        self.template, self.wording = read_template(options.template)

    def items(self, seed: int = 0, limit: int | None = None) -> Sequence[VideoItem]:
        """See VideoTask."""
        return items_of([(self._content, self._path)], self._item, limit)

    def chosen(self, item: VideoItem, text: str) -> str | None:
        """A letter."""
        return chosen_option(text, item.options)

    def protocol(self) -> dict[str, Any]:
        """See VideoTask."""
        told = {"kind": self.kind, "data_sha256": sha256(self._content).hexdigest()}
        return {**self.shared_protocol(), **self.wording, **told}

    @property
    def _path(self) -> Path:
        return self.folder / "json" / f"{FILES[self.kind]}.json"

    @cached_property
    def _content(self) -> bytes:
        return content_of(self._path)

    def _item(self, record: Record) -> VideoItem:
        options, answer, video = record.texts("candidates", least=2), record.text("answer"), record.text("video")
        right = [letter for letter, option in zip(LETTERS, options, strict=False) if option == answer]
        if len(right) != 1:
            raise record.fault("an answer that is one of the candidates", f"{answer!r} {len(right)} times")
        place = record.where.rpartition(" ")[2]
        return VideoItem(
            id=f"{self.kind}-{place}",
            clip=video,
            kind=record.text("question_type"),
            question=worded(record.text("question"), options, self.template),
            answer=right[0],
            options=options,
            video=self._video(video),
            duration=seconds_of(record, "duration"),
        )

    def _video(self, name: str) -> Path:
        """Its file; mirrors leave the number out of the folder's name."""
        folders = [self.folder / "video" / folder for folder in (FILES[self.kind], self.kind)]
        return next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name)
