"""A file of video through PyAV: when its frames are shown, and the chosen ones, upright."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from namm.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

STEADY = 0.1
"""Largest deviation of a frame from where a constant rate puts it, in frames, for the rate to be one."""


class Decoded(NamedTuple):
    """Chosen frames of a file."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    seconds: tuple[float, ...]
    total_frames: int
    duration: float
    indices: tuple[int, ...]


class _Timetable(NamedTuple):
    """When frames are shown, in units of the stream's clock."""

    shown: list[int]
    """Ascending."""
    keys: list[int]
    """Those from which decoding can begin."""
    end: int
    """When the last one is gone."""


def read_file(path: Path, choose: Callable[[int, float], Sequence[int]]) -> Decoded:
    """Some frames of a video file.

    Args:
        path: Any container and codec that FFmpeg knows.
        choose: Which frames, ascending, given how many there are and the duration in seconds. Where the rate changes
            these count time, in units of the mean distance of two frames.

    Raises:
        DataError: The file is missing, empty, damaged, or holds no video.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        table = _timetable(path, container, stream)
        base = float(stream.time_base or 1)
        first, total = table.shown[0], len(table.shown)
        duration = (table.end - first) * base
        indices = _by_time(table, choose(total, duration))
        frames = _decoded(path, container, stream, table, indices)
    seconds = tuple((table.shown[index] - first) * base for index in indices)
    return Decoded(frames, seconds, total, duration, tuple(indices))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        import av
        import av.error
    except ImportError as error:
        raise MissingExtraError(f"Reading {path} needs PyAV: pip install 'namm-suite[video]'") from error
    if not path.is_file():
        raise DataError(f"{path}: expected a file of video or a folder of images, found nothing there; check the path.")
    if not path.stat().st_size:
        raise DataError(f"{path}: expected a file of video, found an empty one (0 bytes); fetch it again.")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(
            f"{path}: expected a file of video, found {path.stat().st_size} bytes that no container format fits "
            f"({error.strerror or error}); fetch it again, or convert it with ffmpeg."
        ) from error
    with container:
        if not container.streams.video:
            held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise DataError(f"{path}: expected a stream of pictures, found only {held}; choose a file with video.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            yield container, stream
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(
                f"{path}: expected frames that can be decoded, found damage ({error.strerror or error}); fetch the "
                "file again, or convert it with ffmpeg."
            ) from error


def _timetable(path: Path, container: InputContainer, stream: VideoStream) -> _Timetable:
    """Read off the packets, none of which is decoded."""
    shown, keys, lasts = [], [], []
    for packet in container.demux(stream):
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or not packet.size or packet.is_discard:
            continue
        shown.append(time)
        lasts.append(packet.duration or 0)
        if packet.is_keyframe:
            keys.append(time)
    if not shown:
        raise DataError(f"{path}: expected frames, found a stream of video without any; fetch the file again.")
    last = lasts[int(np.argmax(shown))]
    shown = sorted(set(shown))
    step = (shown[-1] - shown[0]) / (len(shown) - 1) if len(shown) > 1 else 1
    return _Timetable(shown, sorted(keys), shown[-1] + (last or max(1, round(step))))


def _by_time(table: _Timetable, chosen: Sequence[int]) -> list[int]:
    """Frames on the screen at the times that a constant rate would give the chosen ones."""
    shown, total = np.asarray(table.shown), len(table.shown)
    step = (table.end - table.shown[0]) / total
    steady = shown[0] + step * np.arange(total)
    if np.abs(shown - steady).max() <= max(STEADY * step, 1):
        return list(chosen)
    return [max(0, bisect_right(table.shown, float(steady[index])) - 1) for index in chosen]


def _decoded(
    path: Path, container: InputContainer, stream: VideoStream, table: _Timetable, indices: Sequence[int]
) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames at these places, decoded from the last key frame before each."""
    found: dict[int, UInt8[np.ndarray, "height width 3"]] = {}
    here: int | None = None
    source: Iterator[Any] = iter(())
    for index in sorted(set(indices)):
        wanted = table.shown[index]
        key = bisect_right(table.keys, wanted) - 1
        if here is None or (key >= 0 and table.keys[key] > here):
            container.seek(wanted, stream=stream, backward=True)
            source = container.decode(stream)
        frame = next((frame for frame in source if frame.pts is None or frame.pts >= wanted), None)
        if frame is None or frame.pts != wanted or frame.is_corrupt:
            raise DataError(
                f"{path}: expected to decode frame {index} of {len(table.shown)}, found the file damaged there; fetch "
                "it again, or convert it with ffmpeg."
            )
        here = wanted
        found[index] = _upright(frame)
    return np.stack([found[index] for index in indices])


def _upright(frame: Any) -> UInt8[np.ndarray, "height width 3"]:
    """As a player shows it: phones write how they were held beside the pictures."""
    quarters = round((getattr(frame, "rotation", 0) or 0) / 90)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarters))
