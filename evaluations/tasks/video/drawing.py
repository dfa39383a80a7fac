"""Small pictures with no library but numpy: shapes, digits and a noisy background, the same on every machine.

A shape is a function that is negative inside; one pixel of smoothing at its edge is all the antialiasing there is. Only
sums, products, square roots and comparisons are used, which every processor rounds alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, UInt8

SIZE = 64
"""Height and width of a frame, in pixels."""

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (225, 45, 45),
        "green": (50, 190, 60),
        "blue": (60, 90, 240),
        "yellow": (240, 220, 60),
        "purple": (160, 60, 200),
        "orange": (245, 140, 30),
        "white": (240, 240, 240),
        "cyan": (60, 215, 225),
    }
)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
"""Lit segments of each digit, named as on a seven-segment display: a on top, then clockwise, g in the middle."""

Plane = Float[np.ndarray, "height width"]
Frame = UInt8[np.ndarray, "height width 3"]


def _circle(u: Plane, v: Plane) -> Plane:
    return np.sqrt(u * u + v * v) - 1.0


def _square(u: Plane, v: Plane) -> Plane:
    return np.maximum(abs(u), abs(v)) - 0.85


def _diamond(u: Plane, v: Plane) -> Plane:
    return (abs(u) + abs(v) - 1.15) * 0.7071


def _triangle(u: Plane, v: Plane) -> Plane:
    return np.maximum(v - 0.8, (1.8 * abs(u) - v - 1.0) / 2.059)


def _cross(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.maximum(abs(u), abs(v)) - 1.0, np.minimum(abs(u), abs(v)) - 0.3)


def _ring(u: Plane, v: Plane) -> Plane:
    return abs(np.sqrt(u * u + v * v) - 0.8) - 0.22


def _moon(u: Plane, v: Plane) -> Plane:
    bite = np.sqrt((u - 0.55) * (u - 0.55) + v * v)
    return np.maximum(np.sqrt(u * u + v * v) - 1.0, 0.85 - bite)


def _hourglass(u: Plane, v: Plane) -> Plane:
    return np.maximum(abs(v) - 0.9, (abs(u) - abs(v) - 0.05) * 0.7071)


SHAPES: Mapping[str, Callable[[Plane, Plane], Plane]] = MappingProxyType(
    {
        "circle": _circle,
        "square": _square,
        "diamond": _diamond,
        "triangle": _triangle,
        "cross": _cross,
        "ring": _ring,
        "moon": _moon,
        "hourglass": _hourglass,
    }
)


def background(rng: np.random.Generator) -> Plane:
    """A dark grey plane with noise and a few dim specks, as float in 0..255 of [height, width, 3]."""
    plane = rng.uniform(20.0, 60.0) + 8.0 * rng.standard_normal((SIZE, SIZE, 1)) + np.zeros((1, 1, 3))
    for x, y in rng.integers(0, SIZE - 2, (int(rng.integers(0, 6)), 2)):
        plane[y : y + 2, x : x + 2] = rng.uniform(80.0, 120.0)
    return plane


def paint(plane: Plane, shape: str, colour: tuple[float, float, float], x: float, y: float, radius: float) -> None:
    """Draws one shape onto `plane`, in place.

    Args:
        plane: float in 0..255, [height, width, 3].
        shape: a name in `SHAPES`.
        colour: red, green and blue in 0..255.
        x: centre, pixels from the left.
        y: centre, pixels from the top.
        radius: half of the shape's extent, in pixels.
    """
    rows, columns = (slice(max(0, int(c - radius) - 1), min(SIZE, int(c + radius) + 3)) for c in (y, x))
    ys, xs = np.mgrid[rows, columns] + 0.5
    inside = 0.5 - SHAPES[shape]((xs - x) / radius, (ys - y) / radius) * radius
    cover = np.clip(inside, 0.0, 1.0)[..., None]
    plane[rows, columns] += cover * (np.array(colour) - plane[rows, columns])


def paint_digit(plane: Plane, digit: int, x: float, y: float, height: float) -> None:
    """Draws a digit of seven bright segments onto `plane`, in place; `x`, `y` is its centre, `height` in pixels."""
    ys, xs = np.mgrid[:SIZE, :SIZE] + 0.5
    u, v = (xs - x) / height, (ys - y) / height
    wide, thick = 0.28, 0.065
    bars = {
        "a": (0.0, -0.44, wide, thick),
        "g": (0.0, 0.0, wide, thick),
        "d": (0.0, 0.44, wide, thick),
        "f": (-wide, -0.22, thick, 0.28),
        "b": (wide, -0.22, thick, 0.28),
        "e": (-wide, 0.22, thick, 0.28),
        "c": (wide, 0.22, thick, 0.28),
    }
    for segment in _SEGMENTS[digit]:
        bar_x, bar_y, half_x, half_y = bars[segment]
        outside = np.maximum(abs(u - bar_x) - half_x, abs(v - bar_y) - half_y) * height
        cover = np.clip(0.5 - outside, 0.0, 1.0)[..., None]
        plane += cover * (250.0 - plane)


def finished(plane: Plane) -> Frame:
    """The plane as a frame of bytes."""
    return np.clip(np.rint(plane), 0.0, 255.0).astype(np.uint8)
