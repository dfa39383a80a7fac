"""Video-MME: 900 videos of 11 seconds to an hour, three questions with four options about each (Fu et al., 2024).

The folder is its makers': `videomme/test-00000-of-00001.parquet`, `data/` (or `videos/`, `video/`), and `subtitle/`
with a .srt file for most videos; where a video has none, nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from evaluations.tasks.text.records import Record, build_items
from evaluations.tasks.text.source import TextFile
from evaluations.tasks.video.base import VideoItem, VideoOptions, VideoTask
from evaluations.tasks.video.choices import LETTERS, chosen_option, read_template, worded
from evaluations.tasks.video.files import data_folder
from evaluations.tasks.video.subtitles import read_srt
from namm.errors import DataError

FOLDERS = ("data", "videos", "video")
"""Where its archives, and mirrors of it, put the videos."""
_LETTERED = re.compile(r"^[A-Z][.)]\s*")


class VideoMME(VideoTask):
    """Its test part, which is all there is."""

    name = "video-mme"
    sampling = "ends"
    frames = 32
    new_tokens = 16

    def __init__(self, options: VideoOptions) -> None:
        super().__init__(options)
        self.folder = data_folder(self.name, options)
        self.template, self.wording = read_template(options.template)

    def items(self, seed: int = 0, limit: int | None = None) -> Sequence[VideoItem]:
        """See VideoTask."""
        records = (record for file in self._files for record in file.records())
        return build_items(records, self._item, ", ".join(file.name for file in self._files), limit)

    def chosen(self, item: VideoItem, text: str) -> str | None:
        """A letter."""
        return chosen_option(text, item.options)

    def protocol(self) -> dict[str, Any]:
        """See VideoTask."""
        digest = sha256()
        for file in self._files:
            for block in file.blocks():
                digest.update(block)
        subtitles = "between the frames" if self.options.subtitles else "none"
        return {
            **self.shared_protocol(), **self.wording, "subtitles": subtitles, "data_sha256": digest.hexdigest()
        }  # fmt: skip

    @cached_property
    def _files(self) -> list[TextFile]:
        found = sorted(self.folder.glob("videomme/test-*-of-*.parquet")) or sorted(
            self.folder.glob("test-*-of-*.parquet")
        )
        if not found:
            raise DataError(
                f"expected videomme/test-00000-of-00001.parquet in {self.folder}, found none; --data is the folder as "
                "its makers lay it out"
            )
        return [TextFile(path) for path in found]

    def _item(self, record: Record) -> VideoItem:
        options = tuple(_LETTERED.sub("", option) for option in record.texts("options", least=2))
        name = record.text("videoID", empty=False)
        subtitles = None
        if self.options.subtitles:
            path = self.folder / "subtitle" / f"{name}.srt"
            subtitles = partial(read_srt, path) if path.exists() else list
        return VideoItem(
            id=record.text("question_id"),
            clip=name,
            kind=record.text("task_type"),
            question=worded(record.text("question"), options, self.template),
            answer=record.one_of("answer", LETTERS[: len(options)]),
            options=options,
            video=self._video(name),
            subtitles=subtitles,
            groups={name: record.text(name) for name in ("duration", "domain", "sub_category")},
        )

    def _video(self, name: str) -> Path:
        places = [self.folder / folder / f"{name}.mp4" for folder in FOLDERS]
        return next((place for place in places if place.exists()), places[0])
