"""Clips that are drawn or put together here, as a task: moving shapes (`rendered`) and easy-vqa's images (`easy-vqa`).

Of a rendered clip one question of each kind there is about it is asked, of a clip of easy-vqa one about the image at
each of a few places, so that evidence of any age is asked for. An answer is one word: the first that
is said counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.base import VideoItem, VideoOptions, VideoTask
from evaluations.tasks.video.questions import Question, questions
from evaluations.tasks.video.rendered import FRAMES, Clip, draw_clip
from namm.errors import ConfigError

STREAM = 10_000
"""Clips of the test split between one seed's first and the next's."""
IMAGES = 8
"""Of easy-vqa in a clip."""
ASKED_PLACES = 4
"""Images of a clip that are asked about."""


class Rendered(VideoTask):
    """Test clips of moving shapes."""

    name = "rendered"
    new_tokens = 2
    drawn = True

    def __init__(self, options: VideoOptions) -> None:
        super().__init__(options)
        _check(options, self.name, FRAMES)

    def items(self, seed: int = 0, limit: int | None = None) -> Sequence[VideoItem]:
        """See VideoTask."""
        found = []
        for index in range(seed * STREAM, seed * STREAM + self.options.clips):
            clip = draw_clip("test", index)
            found += [_about(clip, index, question) for question in one_of_each_kind(clip, index)]
        return found[:limit]

    def chosen(self, item: VideoItem, text: str) -> str | None:
        """The first word."""
        return first_word(text)

    def protocol(self) -> dict[str, Any]:
        """See VideoTask."""
        return {**self.shared_protocol(), "clips": self.options.clips, "wording": "this project's", "split": "test"}


class EasyVQA(VideoTask):
    """Clips of eight test images of easy-vqa, each asked about by its place."""

    name = "easy-vqa"
    new_tokens = 2
    drawn = True

    def __init__(self, options: VideoOptions) -> None:
        super().__init__(options)
        _check(options, self.name, IMAGES * easy_vqa.FRAMES_PER_IMAGE)

    def items(self, seed: int = 0, limit: int | None = None) -> Sequence[VideoItem]:
        """See VideoTask."""
        total = len(easy_vqa.images("test"))
        found = []
        for number in range(seed * self.options.clips, (seed + 1) * self.options.clips):
            clip = easy_vqa.vqa_clip("test", number % total, IMAGES)
            rng = np.random.default_rng([0xA5C, number])
            by_place: dict[int, list[easy_vqa.VqaQuestion]] = defaultdict(list)
            for question in clip.questions():
                by_place[question.evidence[0] // clip.frames_per_image].append(question)
            for place in sorted(rng.permutation(IMAGES)[:ASKED_PLACES].tolist()):
                asked = by_place[place][rng.integers(len(by_place[place]))]
                found.append(
                    VideoItem(
                        id=f"{number}-{place}",
                        clip=str(number),
                        kind=_kind(asked.answer),
                        question=asked.text,
                        answer=asked.answer,
                        drawn=clip.render,
                        evidence=asked.evidence,
                    )
                )
        return found[:limit]

    def chosen(self, item: VideoItem, text: str) -> str | None:
        """The first word."""
        return first_word(text)

    def protocol(self) -> dict[str, Any]:
        """See VideoTask."""
        told = {"clips": self.options.clips, "images": IMAGES, "split": "the set's own test part"}
        return {**self.shared_protocol(), **told, "wording": "the set's own, the place of the image before it"}


def one_of_each_kind(clip: Clip, index: int) -> list[Question]:
    """A question of each kind there is about a clip, drawn by `index`."""
    rng = np.random.default_rng([0xA5D, index])
    by_kind: dict[str, list[Question]] = defaultdict(list)
    for question in questions(clip):
        by_kind[question.kind].append(question)
    return [pool[rng.integers(len(pool))] for _, pool in sorted(by_kind.items())]


def first_word(text: str) -> str | None:
    """The first word of an answer, in small letters; None where nothing is said."""
    words = text.split()
    return words[0].strip(".,:!").lower() if words else None


def _about(clip: Clip, index: int, question: Question) -> VideoItem:
    return VideoItem(
        id=f"{index}-{question.kind}",
        clip=str(index),
        kind=question.kind,
        question=question.text,
        answer=question.answer,
        drawn=clip.render,
        evidence=question.evidence,
    )


def _check(options: VideoOptions, name: str, frames: int) -> None:
    if options.frames is not None and options.frames != frames:
        raise ConfigError(f"{name} draws clips of {frames} frames, found --frames {options.frames}; leave it out")
    if options.subtitles:
        raise ConfigError(f"nothing is said in the clips of {name}, found --subtitles; leave it out")


def _kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes or no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "colour"
