"""Files of questions in a benchmark's folder, read with checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from evaluations.tasks.text.records import Record, build_items, list_of
from evaluations.tasks.video.base import VideoItem, VideoOptions
from namm.errors import ConfigError, DataError


def data_folder(task: str, options: VideoOptions) -> Path:
    """The folder with a benchmark's data.

    Raises:
        ConfigError: None was named, or there is none.
    """
    if options.data is None:
        raise ConfigError(f"{task} reads its makers' files: expected --data FOLDER, found none; docs/video.md says how")
    folder = Path(options.data).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"expected a folder with the data of {task}, found none at {folder}; check --data")
    return folder


def items_of(
    files: Sequence[tuple[bytes, Path]], build: Callable[[Record], VideoItem], limit: int | None
) -> list[VideoItem]:
    """One item a record of files that are JSON lists; all broken records are told in one error.

    Args:
        files: Contents, and where they were read.
        build: Makes an item or raises a `DataError`.
        limit: The first so many only.

    Raises:
        DataError: Some records are broken, two have the same id, or there are none.
    """

    def records() -> Iterator[Record | DataError]:
        for content, path in files:
            yield from list_of(content, str(path))

    return build_items(records(), build, ", ".join(str(path) for _, path in files), limit)


def content_of(path: Path) -> bytes:
    """A file of questions.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        have = sorted(entry.name for entry in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        raise DataError(
            f"expected the questions at {path}, found {', '.join(have) or 'no such folder'} "
            f"({(error.strerror or 'no file').lower()}); --data is the folder as its makers lay it out"
        ) from None


def seconds_of(record: Record, name: str) -> float:
    """A field that must be a time in seconds.

    Raises:
        DataError: It is missing or no number of 0 or more.
    """
    value = record.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise record.fault(f"seconds in {name!r}", repr(value))
    return float(value)
