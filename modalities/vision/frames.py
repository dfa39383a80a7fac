"""Frames of a clip, whatever they come from: when each was shown, and of what it was sampled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from namm.errors import DataError


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


def clip_of(frames: UInt8[np.ndarray, "frames height width 3"], fps: float = 1.0, source: str = "array") -> Clip:
    """A clip of all frames of an array.

    Args:
        frames: RGB, 0 to 255.
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


VideoSource = str | Path | np.ndarray
"""A file, a folder of images, or an array of frames."""
