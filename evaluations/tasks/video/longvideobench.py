"""LongVideoBench: questions that refer to a moment of a video of 8 seconds to an hour (Wu et al., 2024).

The folder is its makers': `lvb_val.json`, `videos/`, `subtitles/`. `position` names the frames of the moment that a
question refers to, so that it can be said how much of the evidence a memory still holds. The test part has no answers
and is not scored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

from evaluations.tasks.text.records import Record
from evaluations.tasks.video.base import VideoItem, VideoOptions, VideoTask
from evaluations.tasks.video.choices import LETTERS, chosen_option, read_template, worded
from evaluations.tasks.video.files import content_of, data_folder, items_of, seconds_of
from evaluations.tasks.video.subtitles import read_longvideobench

QUESTIONS = "lvb_val.json"


class LongVideoBench(VideoTask):
    """The validation part."""

    name = "longvideobench"
    sampling = "left"
    frames = 32
    new_tokens = 16

    def __init__(self, options: VideoOptions) -> None:
        super().__init__(options)
        self.folder = data_folder(self.name, options)
        self.template, self.wording = read_template(options.template)

    def items(self, seed: int = 0, limit: int | None = None) -> Sequence[VideoItem]:
        """See VideoTask."""
        return items_of([(self._content, self.folder / QUESTIONS)], self._item, limit)

    def chosen(self, item: VideoItem, text: str) -> str | None:
        """A letter."""
        return chosen_option(text, item.options)

    def protocol(self) -> dict[str, Any]:
        """See VideoTask."""
        return {
            **self.shared_protocol(),
            **self.wording,
            "subtitles": "between the frames" if self.options.subtitles else "none",
            "data_sha256": sha256(self._content).hexdigest(),
        }

    @cached_property
    def _content(self) -> bytes:
        return content_of(self.folder / QUESTIONS)

    def _item(self, record: Record) -> VideoItem:
        options = record.texts("candidates", least=2)
        right = record.integer("correct_choice")
        if right >= len(options):
            raise record.fault(f"a correct_choice below {len(options)}, the number of candidates", str(right))
        duration = seconds_of(record, "duration")
        subtitles = None
        if self.options.subtitles:
            path = self.folder / "subtitles" / record.text("subtitle_path")
            begins = seconds_of(record, "starting_timestamp_for_subtitles")
            subtitles = partial(read_longvideobench, path, begins, duration)
        return VideoItem(
            id=record.text("id"),
            clip=record.text("video_id"),
            kind=record.text("question_category"),
            question=worded(record.text("question"), options, self.template),
            answer=LETTERS[right],
            options=options,
            video=self.folder / "videos" / record.text("video_path"),
            duration=duration,
            evidence=_frames(record),
            subtitles=subtitles,
            groups=_groups(record, ("duration_group", "level", "topic_category")),
        )


def _frames(record: Record) -> tuple[int, ...]:
    value = record.fields.get("position") or []
    if not isinstance(value, list) or not all(isinstance(frame, int) and frame >= 0 for frame in value):
        raise record.fault("a list of frames in 'position'", repr(value))
    return tuple(sorted(set(value)))


def _groups(record: Record, names: Sequence[str]) -> Mapping[str, str]:
    return {name: str(record.fields[name]) for name in names if record.has(name)}
