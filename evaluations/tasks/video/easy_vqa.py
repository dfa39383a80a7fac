"""easy-vqa, a public set of questions about images of one shape, as single frames and as clips.

The PyPI package `easy-vqa` (MIT) holds 5,000 images of 64 x 64 pixels with 48,248 questions and its own split. One
image as a clip of one frame can be held against published figures. A clip of several shows one image after another and
is asked about one of them by its place, long after it was seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from namm.errors import ConfigError, NammError

Part = Literal["train", "test"]
"""The set's own split."""

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
FRAMES_PER_IMAGE = 4

_COLOUR_ASKED = re.compile(r"what (?:color is|is the color of) the \w+\?")
_SHAPE_ASKED = re.compile(r"what is the (\w+) shape\?|what shape ")


@dataclass(frozen=True)
class VqaImage:
    """One image with its questions."""

    index: int
    pixels: UInt8[np.ndarray, "height width 3"]
    questions: tuple[tuple[str, str], ...]
    """Each question with its one word of answer."""
    colour: str | None
    """Where a question tells it."""
    shape: str | None
    """Where a question tells it."""


@dataclass(frozen=True)
class VqaQuestion:
    """One question about a clip of images."""

    text: str
    answer: str
    evidence: tuple[int, ...]
    """Frames that show the image asked about."""
    image: int
    """Its index in the set."""


@dataclass(frozen=True)
class VqaClip:
    """Images one after the other, each for some frames."""

    images: tuple[VqaImage, ...]
    frames_per_image: int = FRAMES_PER_IMAGE

    @property
    def length(self) -> int:
        """Frames in all."""
        return len(self.images) * self.frames_per_image

    def render(self) -> UInt8[np.ndarray, "frames height width 3"]:
        """The clip's frames as RGB bytes."""
        return np.stack([image.pixels for image in self.images for _ in range(self.frames_per_image)])

    def questions(self) -> list[VqaQuestion]:
        """The set's questions; where the clip has several images, a place is named before them."""
        asked = []
        for place, image in enumerate(self.images):
            where = f"in the {ORDINALS[place]} image: " if len(self.images) > 1 else ""
            seen = tuple(range(place * self.frames_per_image, (place + 1) * self.frames_per_image))
            asked += [VqaQuestion(where + text, answer, seen, image.index) for text, answer in image.questions]
        return asked


@cache
def images(part: Part) -> tuple[VqaImage, ...]:
    """All images of one part of the set with their questions, by index.

    Raises:
        NammError: if the package is not installed.
    """
    try:
        import easy_vqa as package
    except ImportError as error:
        raise NammError(
            "expected the package easy-vqa, found none; install it: pip install 'namm-suite[video]'"
        ) from error
    from PIL import Image

    if part == "train":
        (texts, answers, owners), paths = package.get_train_questions(), package.get_train_image_paths()
    else:
        (texts, answers, owners), paths = package.get_test_questions(), package.get_test_image_paths()
    asked: dict[int, list[tuple[str, str]]] = {index: [] for index in paths}
    for text, answer, index in zip(texts, answers, owners, strict=True):
        asked[index].append((text, answer))
    found = []
    for index in sorted(paths):
        with Image.open(paths[index]) as file:
            pixels = np.asarray(file.convert("RGB"))
        found.append(VqaImage(index, pixels, tuple(asked[index]), *_described(asked[index])))
    return tuple(found)


def _described(asked: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    """Colour and shape, read off the questions: the set tells them nowhere else."""
    colour = next((answer for text, answer in asked if _COLOUR_ASKED.match(text)), None)
    shape = next((answer for text, answer in asked if _SHAPE_ASKED.match(text)), None)
    for text, _ in asked:
        named = re.match(r"what is the (\w+) shape\?", text)
        colour = colour or (named and named[1]) or None
        named = re.match(r"what (?:color is|is the color of) the (\w+)\?", text)
        shape = shape or (named and named[1] != "shape" and named[1]) or None
    return colour, shape


def vqa_clip(part: Part, index: int, count: int = 8) -> VqaClip:
    """A clip of `count` images of one part, a function of its arguments; image `index` of the part is among them.

    Raises:
        ConfigError: if there is no such image or more places than words for them.
    """
    pool = images(part)
    if not 1 <= count <= len(ORDINALS) or not 0 <= index < len(pool):
        raise ConfigError(
            f"expected 1 to {len(ORDINALS)} images and an index below {len(pool)}, found {count} and {index}; "
            "change them"
        )
    if count == 1:
        return VqaClip((pool[index],), 1)
    rng = np.random.default_rng([0xEA5, int(part == "test"), index, count])
    others = [i for i in rng.permutation(len(pool))[:count].tolist() if i != index][: count - 1]
    others.insert(int(rng.integers(count)), index)
    return VqaClip(tuple(pool[i] for i in others))
