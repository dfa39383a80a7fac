"""Reads a rendered clip off its pixels alone, knowing nothing of how it was drawn, and answers questions about it.

Slow and obvious: bright blobs, their number, colour and outline, then the question's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.path import Path
from scipy import ndimage, signal

PALETTE = {
    "red": (1, 0.2, 0.2),
    "green": (0.26, 1, 0.32),
    "blue": (0.25, 0.375, 1),
    "yellow": (1, 0.92, 0.25),
    "purple": (0.8, 0.3, 1),
    "orange": (1, 0.57, 0.12),
    "white": (1, 1, 1),
    "cyan": (0.27, 0.96, 1),
}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LIT = {  # top, upper left, upper right, middle, lower left, lower right, bottom
    "1110111": 0, "0010010": 1, "1011101": 2, "1011011": 3, "0111010": 4,
    "1101011": 5, "1101111": 6, "1010010": 7, "1111111": 8, "1111011": 9,
}  # fmt: skip


@dataclass
class Sight:
    """What one stretch of frames shows."""

    frames: list[int]
    what: str
    colour: str = ""
    copies: int = 0


def watch(frames: np.ndarray) -> list[Sight]:
    """Stretches of frames that show the same thing, empty ones left out."""
    sights: list[Sight] = []
    for index, frame in enumerate(frames):
        here = _look(frame)
        if here is None:
            continue
        what, colour, copies = here
        before = sights[-1] if sights else None
        if before and (before.what, before.colour, before.frames[-1]) == (what, colour, index - 1):
            assert before.copies == copies, (index, before, copies)
            before.frames.append(index)
        else:
            sights.append(Sight([index], what, colour, copies))
    return sights


def answer(text: str, sights: list[Sight]) -> tuple[str, tuple[int, ...]]:
    """The answer to a question and the frames that show it."""
    shapes = [sight for sight in sights if sight.what != "number"]
    if text == "what number flashed?":
        (flash,) = [sight for sight in sights if sight.what == "number"]
        return WORDS[flash.copies], tuple(flash.frames)
    if text == "what shape came first?":
        return shapes[0].what, tuple(shapes[0].frames)
    named = [i for i, sight in enumerate(shapes) if _names(text, sight)]
    assert len(named) == 1, (text, shapes)
    sight = shapes[named[0]]
    step = 1 if " after " in text else -1 if " before " in text else 0
    if step:
        other = shapes[named[0] + step]
        return other.what, tuple(sorted((*sight.frames, *other.frames)))
    said = {
        "what color": sight.colour,
        "what were": sight.what,
        "how many": WORDS[sight.copies],
    }
    (word,) = [word for begin, word in said.items() if text.startswith(begin)]
    return word, tuple(sight.frames)


def _names(text: str, sight: Sight) -> bool:
    stem = sight.what + ("es" if sight.what in ("cross", "hourglass") else "s")
    return bool(re.search(rf"\b({stem}|{sight.colour} shapes)\b", text))


def _look(frame: np.ndarray) -> tuple[str, str, int] | None:
    """What a frame shows, in which colour and how often; None if nothing."""
    light = frame.max(axis=2).astype(float)
    cover = np.clip((light - 90) / 60, 0, 1)
    labels, count = ndimage.label(cover > 0.5, np.ones((3, 3)))
    for i in range(1, count + 1):
        if (labels == i).sum() < 15:  # specks of the background
            cover[labels == i] = 0
    if cover.sum() < 20:
        return None
    number = _digit(frame, cover > 0.5)
    if number is not None:
        return "number", "", number
    fits = {name: _fit(cover, name) for name in OUTLINES}
    name = max(fits, key=lambda other: fits[other][0])
    return name, _colour(frame, cover > 0.9), fits[name][1]


def _fit(cover: np.ndarray, name: str) -> tuple[float, int]:
    """How well copies of one shape explain a picture (overlap over union), and how many they are."""
    rows, columns = np.nonzero(cover > 0.5)
    edge = 10
    cover = np.pad(cover, edge)[rows.min() : rows.max() + 2 * edge + 1, columns.min() : columns.max() + 2 * edge + 1]
    best = (0.0, 0)
    for radius in (6.4, 7.0, 7.6):
        stamp = _stamp(name, radius)
        left, drawn, copies = cover.copy(), np.zeros_like(cover), 0
        while copies < 6:
            match = signal.correlate(left, stamp, mode="same", method="fft")
            row, column = np.unravel_index(match.argmax(), match.shape)
            if match[row, column] < 0.6 * stamp.sum():
                break
            one = np.zeros((cover.shape[0] + 18, cover.shape[1] + 18))
            one[row : row + 19, column : column + 19] = stamp
            one = one[9:-9, 9:-9]
            drawn, left, copies = np.maximum(drawn, one), np.clip(left - one, 0, 1), copies + 1
        union = np.maximum(drawn, cover).sum()
        best = max(best, (float(np.minimum(drawn, cover).sum() / union), copies))
    return best


@cache
def _stamp(name: str, radius: float, finer: int = 5) -> np.ndarray:
    """The share of each pixel that the shape covers, counted over finer points."""
    points = (np.arange(19 * finer) + 0.5) / finer - 9.5
    x, y = np.meshgrid(points / radius, points / radius)
    return OUTLINES[name](x, y).reshape(19, finer, 19, finer).mean(axis=(1, 3))


def _polygon(*corners: tuple[float, float]):
    path = Path(corners)
    return lambda x, y: path.contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(x.shape)


_ARM = 0.3
OUTLINES = {
    "circle": lambda x, y: np.hypot(x, y) < 1,
    "ring": lambda x, y: (np.hypot(x, y) < 1.02) & (np.hypot(x, y) > 0.58),
    "moon": lambda x, y: (np.hypot(x, y) < 1) & (np.hypot(x - 0.55, y) > 0.85),
    "square": _polygon((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "diamond": _polygon((0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)),
    "triangle": _polygon((0, -1), (1, 0.8), (-1, 0.8)),
    "hourglass": _polygon((-0.95, -0.9), (0.95, -0.9), (0.05, 0), (0.95, 0.9), (-0.95, 0.9), (-0.05, 0)),
    "cross": lambda x, y: (np.maximum(abs(x), abs(y)) < 1) & (np.minimum(abs(x), abs(y)) < _ARM),
}


def _colour(frame: np.ndarray, inside: np.ndarray) -> str:
    pixels = frame[inside].astype(float)
    mean = np.median(pixels, axis=0)
    return min(PALETTE, key=lambda name: float(np.abs(np.array(PALETTE[name]) - mean / mean.max()).sum()))


def _share(box: np.ndarray, top: float, bottom: float, left: float, right: float) -> float:
    height, width = box.shape
    part = box[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    return float(part.mean())


def _digit(frame: np.ndarray, cover: np.ndarray) -> int | None:
    """The digit, if this is one: tall thin strokes."""
    rows, columns = np.nonzero(cover)
    box = cover[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = box.shape
    pale = frame[cover].min(axis=1).mean() > 180
    thick = ndimage.binary_erosion(cover, np.ones((6, 6))).any()  # white shapes, one on top of the other
    if not pale or thick or height < 24 or box.mean() < 0.15 or width > 0.8 * height:
        return None
    if width < 0.3 * height:
        return 1 if box.mean() > 0.7 else None
    lit = [
        _share(box, 0, 0.12, 0.3, 0.7), _share(box, 0.2, 0.4, 0, 0.2), _share(box, 0.2, 0.4, 0.8, 1),
        _share(box, 0.45, 0.55, 0.3, 0.7), _share(box, 0.6, 0.8, 0, 0.2), _share(box, 0.6, 0.8, 0.8, 1),
        _share(box, 0.88, 1, 0.3, 0.7),
    ]  # fmt: skip
    return LIT.get("".join(str(int(part > 0.5)) for part in lit))
