"""Clips of moving shapes, drawn from a seed, and what can be asked about them afterwards.

A clip is a row of scenes: some copies of one shape in one colour drift in one direction for a few frames; in between
there are empty frames, and one single frame flashes a number. No shape and no colour comes twice in a clip, so either
names a scene. Every question names the frames its answer is seen in (`questions`), which a memory must keep although
nothing says so while they pass. Clips come in three disjoint namespaces, by split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from evaluations.tasks.video.drawing import COLOURS, SHAPES, SIZE, background, finished, paint, paint_digit
from namm.errors import ConfigError, DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
"""For learning, for choosing between recipes, and for numbers that are reported."""

Direction = Literal["left", "right", "up", "down"]
DIRECTIONS: tuple[Direction, ...] = ("left", "right", "up", "down")
SHOWN = tuple(shape for shape in SHAPES if shape != "circle")
"""Shapes of clips: a disc of this size is hard to tell from a square in patches of eight pixels."""

MOST_COPIES = 3
FRAMES = 40
"""Frames of a clip where nothing else is said."""

BOARD = 4
"""Shapes stand on a board of so many squares each way and go from square to square."""

SQUARE = SIZE // BOARD

_STREAM = 0x71DE0  # keeps these draws apart from those of other tasks with the same seed


class Drifting(NamedTuple):
    """What drifts through a scene that is not empty."""

    shape: str
    colour: str
    direction: Direction


@dataclass(frozen=True)
class Scene:
    """A few frames in which one thing is seen; what they look like is a function of these fields."""

    frames: int
    """How many, at least 1."""
    seed: tuple[int, ...]
    """Decides place, size, pace and noise."""
    shape: str | None = None
    """A name in `SHAPES`; None for an empty scene or a number."""
    colour: str | None = None
    """A name in `COLOURS`."""
    copies: int = 0
    """How many of the shape, at most 4; clips show up to three."""
    direction: Direction | None = None
    """Where they drift; only seen in two frames or more."""
    number: int | None = None
    """The digit that flashes, 0 to 9."""

    @property
    def drifting(self) -> Drifting | None:
        """The shape with its colour and way; None for an empty scene or a number.

        Raises:
            DataError: A shape lacks one of them.
        """
        if self.shape is None:
            return None
        if self.colour is None or self.direction is None:
            found = f"{self.colour} and {self.direction}"
            raise DataError(f"expected a colour and a direction of the {self.shape}, found {found}; give both")
        return Drifting(self.shape, self.colour, self.direction)

    def render(self) -> UInt8[np.ndarray, "frames height width 3"]:
        """The scene's frames."""
        rng = np.random.default_rng(self.seed)
        cells, drifting = self._cells(rng), self.drifting
        if drifting is None:
            return np.stack([self._still(rng, frame[0]) for frame in cells])
        return self._drift(rng, drifting, cells)

    def occupied(self) -> Bool[np.ndarray, "frames rows columns"]:
        """Which squares of the board show something, frame by frame."""
        cells = self._cells(np.random.default_rng(self.seed))
        board = np.zeros((self.frames, BOARD, BOARD), dtype=bool)
        for frame, places in enumerate(cells):
            if self.shape is not None:
                board[frame, places[:, 1], places[:, 0]] = True
            elif self.number is not None:  # drawn around the corner where four squares meet
                x, y = places[0]
                board[frame, y - 1 : y + 1, x - 1 : x + 1] = True
        return board

    def _cells(self, rng: np.random.Generator) -> Int64[np.ndarray, "frames copies 2"]:
        """Column and row of each copy, frame by frame; of a number the corner of squares in its middle."""
        if self.direction is None:
            return rng.integers(1, BOARD, (self.frames, 1, 2))
        group = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])[rng.permutation(4)[: self.copies]]
        group = group - group.min(axis=0)  # the group is as tight as its copies allow
        room = BOARD - 1 - group.max(axis=0)
        axis = 0 if self.direction in ("left", "right") else 1
        share = np.linspace(0.0, 1.0, self.frames)
        if self.direction in ("left", "up"):
            share = share[::-1]
        travelled = np.rint(share * room[axis]).astype(int)[:, None] * np.eye(2, dtype=int)[axis]
        corner = rng.integers(0, room + 1)
        corner[axis] = 0
        return (group[None] + corner + travelled[:, None]).astype(np.int64)

    def _still(self, rng: np.random.Generator, corner: Int64[np.ndarray, " 2"]) -> UInt8[np.ndarray, "height width 3"]:
        plane = background(rng)
        if self.number is not None:
            x, y = SQUARE * corner + rng.uniform(-1.0, 1.0, 2)
            paint_digit(plane, self.number, x, y, rng.uniform(26.0, 29.0))
        return finished(plane)

    def _drift(
        self, rng: np.random.Generator, drifting: Drifting, cells: Int64[np.ndarray, "frames copies 2"]
    ) -> UInt8[np.ndarray, "frames height width 3"]:
        radius, tint = rng.uniform(6.6, 7.4), rng.uniform(0.85, 1.0)
        red, green, blue = (tint * part for part in COLOURS[drifting.colour])
        frames = []
        for places in cells:
            plane = background(rng)
            for x, y in SQUARE * (places + 0.5) + rng.uniform(-0.8, 0.8, places.shape):
                paint(plane, drifting.shape, (red, green, blue), x, y, radius)
            frames.append(finished(plane))
        return np.stack(frames)


@dataclass(frozen=True)
class Clip:
    """Scenes in the order they are seen."""

    scenes: tuple[Scene, ...]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The frame each scene begins with."""
        return tuple(int(start) for start in np.cumsum([0, *(scene.frames for scene in self.scenes[:-1])]))

    @property
    def length(self) -> int:
        """Frames in all."""
        return self.starts[-1] + self.scenes[-1].frames

    def seen(self, index: int) -> tuple[int, ...]:
        """The frames in which scene `index` is seen."""
        return tuple(range(self.starts[index], self.starts[index] + self.scenes[index].frames))

    def render(self) -> UInt8[np.ndarray, "frames height width 3"]:
        """The clip's frames as RGB bytes."""
        return np.concatenate([scene.render() for scene in self.scenes])


@dataclass(frozen=True)
class Shape:
    """How clips are composed."""

    frames: int = FRAMES
    """Length of a clip."""
    scenes: tuple[int, int] = (4, 6)
    """Fewest and most scenes with shapes, at most 7."""
    scene_frames: tuple[int, int] = (3, 5)
    """Fewest and most frames of such a scene."""
    number: bool = True
    """Whether one frame flashes a number."""


def draw_clip(split: Split, index: int, shape: Shape | None = None) -> Clip:
    """The clip `index` of `split`: the same arguments give the same clip.

    Args:
        split: "train", "validation" or "test".
        index: from 0; any two give independent clips.
        shape: length and composition; None for the default.

    Raises:
        ConfigError: if the split is unknown or the scenes do not fit into the frames.
    """
    shape = shape or Shape()
    if split not in SPLITS or index < 0:
        raise ConfigError(
            f"expected a split of {', '.join(SPLITS)} and an index from 0, found {split!r} and {index}; "
            "name one of them"
        )
    _check(shape)
    seed = (_STREAM, SPLITS.index(split), index)
    rng = np.random.default_rng(seed)
    count = int(rng.integers(shape.scenes[0], shape.scenes[1] + 1))
    lengths = _lengths(rng, shape, count)
    shapes, colours = rng.permutation(list(SHOWN))[:count], rng.permutation(list(COLOURS))[:count]
    parts = [
        Scene(
            int(lengths[i]),
            (*seed, 1 + i),
            str(shapes[i]),
            str(colours[i]),
            int(rng.integers(1, MOST_COPIES + 1)),
            DIRECTIONS[rng.integers(len(DIRECTIONS))],
        )
        for i in range(count)
    ]
    if shape.number:
        parts.insert(int(rng.integers(count + 1)), Scene(1, (*seed, 100), number=int(rng.integers(10))))
    # What is left over is empty and falls anywhere between scenes.
    spare = shape.frames - sum(part.frames for part in parts)
    gaps = np.bincount(rng.integers(0, len(parts) + 1, spare), minlength=len(parts) + 1)
    scenes = []
    for i, gap in enumerate(gaps):
        scenes += [Scene(int(gap), (*seed, 200 + i))] if gap else []
        scenes += parts[i : i + 1]
    return Clip(tuple(scenes))


def _lengths(rng: np.random.Generator, shape: Shape, count: int) -> np.ndarray:
    lengths = rng.integers(shape.scene_frames[0], shape.scene_frames[1] + 1, count)
    while lengths.sum() + shape.number > shape.frames:
        lengths[rng.choice(np.flatnonzero(lengths > shape.scene_frames[0]))] -= 1
    return lengths


def _check(shape: Shape) -> None:
    least, most = shape.scenes
    if not 1 <= least <= most <= len(SHOWN):
        raise ConfigError(f"expected 1 <= fewest scenes <= most <= {len(SHOWN)}, found {shape.scenes}; change scenes")
    if not 2 <= shape.scene_frames[0] <= shape.scene_frames[1]:
        raise ConfigError(f"expected 2 <= fewest frames of a scene <= most, found {shape.scene_frames}; change them")
    needed = most * shape.scene_frames[0] + shape.number
    if needed > shape.frames:
        raise ConfigError(
            f"expected at least {needed} frames for {most} scenes of {shape.scene_frames[0]}, found {shape.frames}; "
            "ask for more frames or fewer scenes"
        )
