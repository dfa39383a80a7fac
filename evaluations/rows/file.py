"""rows.jsonl: one JSON object a line, added to by any number of processes on any number of machines.

Whoever reads or writes holds an advisory lock on the file itself for that moment (`flock`; NFS carries it between
machines). So a last line without its newline can only be what a killed process left: it is moved to rows.damaged. A
write is synced to the disk before it counts, and one that does not fit is taken back.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluations.rows.policy_names import with_current_names
from namm.errors import DataError, NammError

Row = dict[str, Any]
Trial = dict[str, Any]
"""One thing that was scored; evaluations/rows/trials.py describes those of each modality."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer."""


class UnfinishedError(NammError):
    """Something broke on the way, such as a full disk; finished rows are kept and the same command continues."""


class RowsFile:
    """A file of rows that others may be adding to at the same time.

    Args:
        path: Need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: set[str] = set()
        self._taken_in = 0  # bytes, always the beginning of a line
        self._lines = 0

    def read_new(self) -> list[Row]:
        """The rows that were added since the last call, by whomever.

        Raises:
            DataError: If a line in the middle is damaged; a damaged last one is moved aside with a warning.
        """
        try:  # opened each time: on a network drive that is what makes others' rows visible
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            self._start_over()
            return []
        with _locked(descriptor):
            return self._take_in(descriptor)

    def append(self, rows: Sequence[Row], replace: bool = False) -> tuple[list[Row], list[Row]]:
        """Adds rows in one write, synced to the disk before this returns; all of them or none.

        A row whose key is in the file already, perhaps by somebody else, is left out.

        Args:
            rows: Of plain JSON values, each with a `key`.
            replace: Add them also where their key is there: of two rows of one key the later one counts.

        Returns:
            What was new in the file before (see `read_new`), and what was added.

        Raises:
            UnfinishedError: If there is no room, or the disk refuses.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        with _locked(descriptor):
            others = self._take_in(descriptor)
            rows = [row for row in rows if replace or row["key"] not in self._keys]
            lines = b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
            self._write(descriptor, lines)
            self._taken_in += len(lines)
            self._lines += len(rows)
            self._keys |= {row["key"] for row in rows}
        return others, rows

    def _start_over(self) -> None:
        self._taken_in = self._lines = 0
        self._keys.clear()

    def _write(self, descriptor: int, lines: bytes) -> None:
        try:
            if os.write(descriptor, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, self._taken_in)
            raise UnfinishedError(
                f"A row of {len(lines)} bytes must be added to {self.path}, found: {error.strerror}; make room and run "
                "again."
            ) from error

    def _take_in(self, descriptor: int) -> list[Row]:
        """Parses what lies beyond the last call; leaves the file ending in a whole line."""
        size = os.fstat(descriptor).st_size
        if size < self._taken_in:  # somebody emptied the file
            self._start_over()
        content = _read(descriptor, self._taken_in, size)
        lines = content.rstrip().split(b"\n") if content.strip() else []
        rows, end = [], self._taken_in
        for number, line in enumerate(lines, start=1):
            row = _parse(line)
            if row is not None:
                rows.append(row)
            elif number == len(lines):
                self._move_aside(descriptor, end, line)
                break
            elif line.strip():
                raise DataError(
                    f"Every line of {self.path} must be one JSON object with a key, found something else in line "
                    f"{self._lines + number} of {self._lines + len(lines)}; delete that line (its cell then runs "
                    "again) or pass another folder with --out."
                )
            end += len(line) + 1
        else:
            if content and not content.endswith(b"\n"):
                os.write(descriptor, b"\n")
        self._taken_in = os.fstat(descriptor).st_size
        self._lines += len(lines)
        self._keys |= {row["key"] for row in rows}
        return rows

    def _move_aside(self, descriptor: int, end: int, damaged: bytes) -> None:
        aside = self.path.with_name("rows.damaged")
        with aside.open("ab") as stream:
            stream.write(damaged + b"\n")
        os.ftruncate(descriptor, end)
        warnings.warn(
            f"The last line of {self.path} was damaged (a killed write?); it was moved to {aside.name} and its cell "
            "runs again.",
            stacklevel=5,
        )


def read_only(path: Path) -> list[Row]:
    """The rows of a file that is not touched; of two with one key the later one counts.

    Raises:
        DataError: There is no such file, it has no row, or a line before its last is damaged.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"expected the rows of an experiment at {path}, found {error.strerror}; name what one was given as --out"
        ) from None
    told = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    found: dict[str, Row] = {}
    for number, line in told:
        row = _parse(line)
        if row is not None:
            found[row["key"]] = row
        elif number != told[-1][0]:  # the last may be what somebody is writing just now
            raise DataError(
                f"expected one JSON object with a key in every line of {path}, found something else in line {number}; "
                "delete that line"
            )
    if not found:
        raise DataError(f"expected at least one row in {path}, found none; name what an experiment was given as --out")
    return list(found.values())


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Nobody else reads or writes meanwhile; closes the file, which gives the lock back."""
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warnings.warn(f"No file locks here ({error.strerror}): run one process at a time.", stacklevel=5)
        yield
    finally:
        os.close(descriptor)


def _read(descriptor: int, start: int, end: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    blocks = []
    while start < end and (block := os.read(descriptor, end - start)):
        blocks.append(block)
        start += len(block)
    return b"".join(blocks)


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return with_current_names(row) if isinstance(row, dict) and isinstance(row.get("key"), str) else None
