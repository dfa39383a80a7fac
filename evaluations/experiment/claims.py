"""Who works on what where several processes share a folder: a claim is a lock and dies with the process that holds it.

A claim locks one byte of the file `claims`: the operating system (on a network drive, its lock service) gives it to one
process at a time and takes it back however that process ends. So nobody has to be told who else is there, nothing has
to be cleaned up after a kill, and a cell whose process died is free for the others.
"""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from evaluations.rows.file import NO_LOCKS


class Claims:
    """The claims of this process on the things of a folder, as a context that gives all of them back.

    One object per folder and process: a process does not compete with itself, and closing the file frees its claims.

    Args:
        folder: Shared by all who compete.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "claims", os.O_RDWR | os.O_CREAT, 0o644)
        self._locks = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def take(self, keys: Sequence[str]) -> bool:
        """Claims all of these, or none if another process holds one of them.

        Args:
            keys: Hexadecimal, as the keys of cells; only the first 60 bits tell them apart.
        """
        taken: list[str] = []
        for key in keys:
            if not self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self.release(taken)
                return False
            taken.append(key)
        return True

    def release(self, keys: Sequence[str]) -> None:
        """Gives claims back."""
        for key in keys:
            self._lock(key, fcntl.LOCK_UN)

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Waits for a claim and holds it for the block."""
        self._lock(key, fcntl.LOCK_EX)
        try:
            yield
        finally:
            self.release([key])

    def _lock(self, key: str, operation: int) -> bool:
        if not self._locks:
            return True
        try:
            fcntl.lockf(self._descriptor, operation, 1, int(key[:15], 16))
        except (BlockingIOError, PermissionError):  # either means that another process has it
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._locks = False
            warnings.warn(f"No file locks here ({error.strerror}): run one process at a time.", stacklevel=4)
        return True
