"""Questions about a rendered clip, in words, each with its answer and the frames that show it.

Seven kinds: colour, shape, count, what came right after or before, what came first, and which number flashed. An answer
is one word out of the kind's `CHOICES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from evaluations.tasks.video.drawing import COLOURS, NUMBERS
from evaluations.tasks.video.rendered import MOST_COPIES, SHOWN, Clip, Drifting

CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "colour": tuple(COLOURS),
        "shape": SHOWN,
        "count": NUMBERS[1 : MOST_COPIES + 1],
        "after": SHOWN,
        "before": SHOWN,
        "first": SHOWN,
        "number": NUMBERS,
    }
)
"""By kind of question, the words that answer it."""


@dataclass(frozen=True)
class Question:
    """One thing asked about a clip."""

    kind: str
    """A key of `CHOICES`."""
    text: str
    """The question in words."""
    answer: str
    """The one word that answers it."""
    evidence: tuple[int, ...]
    """Frames that show the answer, in order."""

    def age(self, frames: int) -> int:
        """Frames of a clip of `frames` frames that were seen after the last one that shows the answer."""
        return frames - 1 - self.evidence[-1]


def plural(shape: str) -> str:
    """The shape's plural."""
    return shape + "es" if shape.endswith("ss") else shape + "s"


def questions(clip: Clip) -> list[Question]:
    """Everything that can be asked about `clip`, in an order that depends on the clip alone."""
    return list(_ask(clip))


def _ask(clip: Clip) -> Iterator[Question]:
    shown = [(i, drifting) for i, scene in enumerate(clip.scenes) if (drifting := scene.drifting) is not None]
    for i, drifting in shown:
        yield from _of_one(drifting, clip.scenes[i].copies, clip.seen(i))
    for (i, earlier), (j, later) in pairwise(shown):
        both = (*clip.seen(i), *clip.seen(j))
        for key in (f"the {plural(earlier.shape)}", f"the {earlier.colour} shapes"):
            yield Question("after", f"what shape came right after {key}?", later.shape, both)
        for key in (f"the {plural(later.shape)}", f"the {later.colour} shapes"):
            yield Question("before", f"what shape came right before {key}?", earlier.shape, both)
    if shown:
        first, drifting = shown[0]
        yield Question("first", "what shape came first?", drifting.shape, clip.seen(first))
    for i, scene in enumerate(clip.scenes):
        if scene.number is not None:
            yield Question("number", "what number flashed?", NUMBERS[scene.number], clip.seen(i))


def _of_one(drifting: Drifting, copies: int, seen: tuple[int, ...]) -> Iterator[Question]:
    shapes, coloured = plural(drifting.shape), f"{drifting.colour} shapes"
    yield Question("colour", f"what color were the {shapes}?", drifting.colour, seen)
    yield Question("shape", f"what were the {coloured}?", drifting.shape, seen)
    for things in (shapes, coloured):
        yield Question("count", f"how many {things} were there?", NUMBERS[copies], seen)
