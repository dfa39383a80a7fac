"""What a video task is: clips, questions about them in words, and a score out of an answer.

A task names its videos and says how their frames are chosen, but reads none: a file that is missing or damaged is a
fault of the questions about it, told when they are asked, and the others go on. Which model watches, under which
memory, is the business of `evaluations/video.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from evaluations.tasks.video.subtitles import Subtitle
from modalities.vision.sampling import Sampling


@dataclass(frozen=True)
class VideoItem:
    """One question about one video."""

    id: str
    """Its name within the task; rows hold one score an id."""

    clip: str
    """The video's name: questions about the same one are not independent."""

    kind: str
    """What kind of thing is asked, as the task names it."""

    question: str
    """What the model reads after the video, options included."""

    answer: str
    """The right answer: the letter of an option, or a word."""

    options: tuple[str, ...] = ()
    """What may be chosen among, in the order of their letters; empty where the answer is a word."""

    video: Path | None = None
    """A file, or a folder of frames; None where the clip is drawn."""

    drawn: Callable[[], UInt8[np.ndarray, "frames height width 3"]] | None = None
    """Draws the clip."""

    duration: float | None = None
    """Of the video in seconds, as the benchmark says; None where the file does."""

    evidence: tuple[int, ...] = ()
    """Frames of the video, not of those that are seen, that show the answer; empty where nobody says."""

    subtitles: Callable[[], Sequence[Subtitle]] | None = None
    """Reads what is said in the video, in seconds of the video; None where it is not to be read."""

    groups: Mapping[str, str] = field(default_factory=dict)
    """What means are also taken by, such as {"duration": "60"}."""

    @property
    def shown_question(self) -> str:
        """The question without its options."""
        return self.question.partition("\n")[0]


@dataclass(frozen=True)
class VideoOptions:
    """What tasks are made with; each takes what concerns it."""

    data: Path | None = None
    """Folder in the layout of the benchmark's makers; None where clips are drawn here."""

    template: Path | None = None
    """File with the wording of a question: {question} and {options} are filled in. None: this project's own."""

    subtitles: bool = False
    """Whether what is said is read between the frames, where the benchmark has subtitles."""

    clips: int = 24
    """Clips of a seed, where they are drawn here."""

    frames: int | None = None
    """Frames that a video is seen in; None: the task's own number."""


class VideoTask(ABC):
    """A set of questions about videos. Subclasses are final, one file each."""

    name: ClassVar[str]
    """As the command line and rows call it."""

    sampling: ClassVar[Sampling] = "all"
    """Which frames are seen."""

    frames: ClassVar[int | None] = None
    """How many are seen where nobody says; None for all."""

    new_tokens: ClassVar[int] = 8
    """Longest answer."""

    drawn: ClassVar[bool] = False
    """Whether a seed decides what is asked."""

    def __init__(self, options: VideoOptions) -> None:
        """Args:
        options: What it is made with. Nothing is read yet.
        """
        self.options = options

    @abstractmethod
    def items(self, seed: int = 0, limit: int | None = None) -> Sequence[VideoItem]:
        """The questions, in the order of the data.

        Args:
            seed: Of clips that are drawn here.
            limit: The first so many only.

        Raises:
            DataError: A file of questions is missing, damaged, or not of the benchmark's form.
        """

    @abstractmethod
    def chosen(self, item: VideoItem, text: str) -> str | None:
        """What an answer says, in the form of `VideoItem.answer`; None where that cannot be told, which is wrong."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What decides a score besides model and memory, as JSON values for the key of a row."""

    @property
    def seen_frames(self) -> int | None:
        """Frames that a video is seen in; None for all of them."""
        return self.options.frames or self.frames

    def shared_protocol(self) -> dict[str, Any]:
        """What every task tells."""
        told = {"task": self.name, "sampling": self.sampling, "frames": self.seen_frames}
        return {**told, "new_tokens": self.new_tokens, "decoding": "greedy", "unreadable answers": "wrong"}
