"""What is said in a video and when, and where it stands between the frames that are seen.

Read are LongVideoBench's JSON (two forms) and SubRip files (.srt). A line is shown at its middle, behind the frames
that come before it, and only where one of them was taken while it was said; lines shorter than a second count as one
second long (LongVideoBench's rule).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluations.tasks.text.records import read_json
from namm.errors import DataError

SHORTEST = 1.0
"""Seconds that a line is taken to last at least."""
_SRT_TIMES = re.compile(r"\s*(\d+):(\d\d):(\d\d)[,.](\d{1,3})\s*-->\s*(\d+):(\d\d):(\d\d)[,.](\d{1,3})")
_TAGS = re.compile(r"<[^>]+>")


@dataclass(frozen=True)
class Subtitle:
    """One line."""

    start: float
    """Seconds of the video."""
    end: float
    text: str

    @property
    def middle(self) -> float:
        """When it is shown."""
        return (self.start + self.end) / 2


Part = int | str
"""A frame, by its place among those that are seen, or a line of text."""


def interleaved(times: Sequence[float], subtitles: Sequence[Subtitle]) -> list[Part]:
    """Frames and lines in the order in which they are read.

    Args:
        times: Of the frames, in seconds, ascending.
        subtitles: In any order.
    """
    parts: list[Part] = []
    place = 0
    for line in sorted(subtitles, key=lambda line: line.middle):
        while place < len(times) and times[place] <= line.middle:
            parts.append(place)
            place += 1
        half = max(line.end - line.start, SHORTEST) / 2
        if any(line.middle - half < time < line.middle + half for time in times):
            parts.append(line.text)
    return [*parts, *range(place, len(times))]


def read_longvideobench(path: Path, begins: float, duration: float) -> list[Subtitle]:
    """The lines of a file of LongVideoBench.

    Args:
        path: A JSON list of {"timestamp": [start, end], "text"} or {"start", "end", "line"}.
        begins: Seconds of the file at which the video begins.
        duration: Of the video, for lines whose end is not told.

    Raises:
        DataError: It is missing or of another form.
    """
    listed = read_json(_content(path), path)
    if not isinstance(listed, list):
        raise DataError(f"{path}: expected a list of subtitles, found {type(listed).__name__}; fetch it again")
    return [_line(entry, f"{path}:row {number}", begins, duration) for number, entry in enumerate(listed, 1)]


def read_srt(path: Path) -> list[Subtitle]:
    """The lines of a SubRip file, its tags left out.

    Raises:
        DataError: It is missing, no UTF-8, or has no line with its times.
    """
    try:
        text = _content(path).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, found the byte 0x{error.object[error.start]:02x}") from None
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.split("\n")
        at = next((place for place, line in enumerate(lines) if _SRT_TIMES.match(line)), None)
        if at is None:
            continue
        told = _SRT_TIMES.match(lines[at])
        assert told is not None  # it was found by matching
        numbers = [int(part) for part in told.groups()]
        start, end = (3600 * h + 60 * m + s + float(f"0.{f:03d}") for h, m, s, f in (numbers[:4], numbers[4:]))
        said = _TAGS.sub("", " ".join(lines[at + 1 :])).strip()
        if said:
            found.append(Subtitle(start, end, said))
    if text.strip() and not found:
        raise DataError(f"{path}: expected times such as 00:00:01,000 --> 00:00:02,500, found none; is it a .srt file?")
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"expected the subtitles at {path}, found: {(error.strerror or 'no file').lower()}; fetch the benchmark's "
            "subtitles, or ask without them"
        ) from None


def _line(entry: object, where: str, begins: float, duration: float) -> Subtitle:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object with text and times, found {type(entry).__name__}")
    times, text = entry.get("timestamp"), entry.get("text", entry.get("line"))
    start, end = times if isinstance(times, list) and len(times) == 2 else (entry.get("start"), entry.get("end"))
    first = _seconds(start)
    last = begins + duration if end is None else _seconds(end)
    if not isinstance(text, str) or first is None or last is None:
        raise DataError(
            f"{where}: expected timestamp and text, or start, end and line, found {sorted(entry)} with the times "
            f"{start!r} and {end!r}; mend the file"
        )
    return Subtitle(first - begins, last - begins, text.strip())


def _seconds(told: object) -> float | None:
    if isinstance(told, (int, float)) and not isinstance(told, bool):
        return float(told)
    parts = told.split(":") if isinstance(told, str) else []
    try:
        return sum(float(part) * 60**power for power, part in enumerate(reversed(parts))) if parts else None
    except ValueError:
        return None
