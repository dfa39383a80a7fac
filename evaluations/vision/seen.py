"""The frames of a video that a model sees: all of a clip that is drawn, or as many as a benchmark takes of a file."""

from __future__ import annotations

from evaluations.tasks.video.base import VideoItem
from modalities.vision.frames import Clip, clip_of, read_clip
from modalities.vision.sampling import Sampling
from namm.errors import DataError


def seen_clip(item: VideoItem, sampling: Sampling, frames: int | None) -> Clip:
    """The frames.

    Args:
        item: A question about the video.
        sampling: How they are chosen.
        frames: How many; None for all.

    Raises:
        DataError: The video cannot be read, or has no frame.
    """
    if item.drawn is not None:
        return clip_of(item.drawn(), source=f"clip {item.clip}")
    if item.video is None:
        raise DataError(f"expected a video of {item.id!r}, found neither a file nor a drawing; mend the task")
    return read_clip(item.video, frames, sampling)
