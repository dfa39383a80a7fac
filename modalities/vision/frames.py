"""Frames of a video file, a folder of images or an array, as a `Clip`: sampled, upright, with their times.

Files are read with PyAV. Which frames there are, and when each is shown, is read off the packets before anything is
decoded: headers are often wrong, and phones record at changing rates. Where the rate changes, frames are
chosen by time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from modalities.vision.sampling import sampled
from modalities.vision.video_file import read_file
from namm.errors import ConfigError, DataError

VideoSource = str | Path | np.ndarray | Tensor
"""A file, a folder of images, or an array of frames."""

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings of files that are frames of a folder; others are left out."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Sampled frames, upright."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    seconds: tuple[float, ...]
    """When each was shown, from the beginning."""
    total_frames: int
    """Frames of what they were sampled from."""
    duration: float
    """Its length in seconds."""
    indices: tuple[int, ...]
    """Which of its frames they are."""
    source: str = "array"
    """Where they come from, for messages."""

    @property
    def fps(self) -> float:
        """Frames a second of what they were sampled from, on average."""
        return self.total_frames / self.duration if self.duration > 0 else 1.0

    @property
    def metadata(self) -> dict[str, Any]:
        """As transformers' processors want it."""
        height, width = self.frames.shape[1:3]
        return {
            "total_num_frames": self.total_frames,
            "fps": self.fps,
            "frames_indices": list(self.indices),
            "duration": self.duration,
            "height": height,
            "width": width,
        }


def read_clip(source: VideoSource, frames: int | None = None, sampling: str = "ends", fps: float = 1.0) -> Clip:
    """Sampled frames of whatever holds them.

    Args:
        source: A video file, a folder of images (in the order of their names, numbers by value), or an array of bytes.
        frames: How many are seen; None for all.
        sampling: How they are chosen, one of `Sampling`.
        fps: Frames a second of a folder or an array; a file says its own.

    Raises:
        DataError: It is missing, empty, damaged, holds no pictures or too few frames; named in the message.
        MissingExtraError: It is a video file and PyAV is not installed.
        ConfigError: The sampling or the rate is impossible.
    """
    if not fps > 0:
        raise ConfigError(f"Expected more than 0 frames a second, found {fps}.")
    if isinstance(source, np.ndarray | Tensor):
        clip = clip_of(source.numpy() if isinstance(source, Tensor) else source, fps)
        return part_of(clip, sampled(clip.total_frames, frames, sampling, clip.duration))
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_folder(path, frames, sampling, fps)
    found = read_file(path, lambda total, duration: sampled(total, frames, sampling, duration, str(path)))
    return Clip(found.frames, found.seconds, found.total_frames, found.duration, found.indices, str(path))


def clip_of(frames: np.ndarray, fps: float = 1.0, source: str = "array") -> Clip:
    """A clip of all frames of an array.

    Args:
        frames: Bytes [frames, height, width, 3], RGB.
        fps: Frames a second.
        source: For messages.

    Raises:
        DataError: It is no such array.
    """
    array = np.asarray(frames)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise DataError(
            f"{source}: expected frames as bytes [frames, height, width, 3], found {array.dtype} {list(array.shape)}; "
            "convert them to RGB from 0 to 255."
        )
    if not fps > 0:
        raise DataError(f"{source}: expected more than 0 frames a second, found {fps}.")
    count = array.shape[0]
    seconds = tuple(index / fps for index in range(count))
    return Clip(array, seconds, count, count / fps, tuple(range(count)), source)


def part_of(clip: Clip, chosen: list[int]) -> Clip:
    """The clip with these of its frames alone.

    Args:
        clip: A clip.
        chosen: Places among its frames, in the order of time.

    Raises:
        DataError: None, or one that it does not have.
    """
    count = len(clip.seconds)
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise DataError(f"{clip.source}: expected places among {count} frames, found {chosen}.")
    return Clip(
        clip.frames[chosen],
        tuple(clip.seconds[place] for place in chosen),
        clip.total_frames,
        clip.duration,
        tuple(clip.indices[place] for place in chosen),
        clip.source,
    )


def _of_folder(folder: Path, frames: int | None, sampling: str, fps: float) -> Clip:
    paths = sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGES), key=_by_number)
    if not paths:
        raise DataError(
            f"{folder}: expected a folder of images ({', '.join(sorted(IMAGES))}), found none; name a file of video or "
            "a folder with one image a frame."
        )
    duration = len(paths) / fps
    indices = sampled(len(paths), frames, sampling, duration, str(folder))
    images = [_image(paths[index]) for index in indices]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"{folder}: expected frames of one size, found {sorted(shape[:2] for shape in shapes)}; a folder is one "
            "video. Scale its images to one size."
        )
    return Clip(
        np.stack(images), tuple(index / fps for index in indices), len(paths), duration, tuple(indices), str(folder)
    )


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    """Names in order, with 2 before 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"{path}: expected an image, found a file that is none or is damaged ({error}).") from error
