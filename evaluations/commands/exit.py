"""How a command ends: one line and an exit code for whatever stops it, never a traceback for what a user can mend.

0 is done, 1 means that something broke on the way and the same command continues, 2 is a mistake in the input, 130 an
interruption, 141 that nobody reads the output any more. `NAMM_DEBUG=1` shows where an error comes from.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from evaluations.rows.file import UnfinishedError
from namm.errors import ConfigError, NammError, RankError, StorageError, did_you_mean
from namm.terminal import any_terminal
from namm.typed import Origin, build, read_json

FAILED, WRONG, INTERRUPTED = 1, 2, 130
Config = TypeVar("Config", bound=Any)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
OTHER_THING = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP
)  # fmt: skip
"""A path is not what it was taken for: a file where a folder is meant, the other way round, or not to be opened."""


@dataclass(frozen=True)
class Ending:
    """How a command, or one rank of it, ended."""

    code: int = 0
    """Exit code."""
    message: str = ""
    """What there is to say, in one line; empty where it was said or there is nothing."""
    follows: bool = False
    """Whether it ended only because another rank had."""


def exit_code(work: Callable[[], object], resume: str) -> int:
    """Does the work of a command, says how it ended, and returns the exit code of its process.

    Args:
        work: Parses the command line and does what it says.
        resume: Said to whoever interrupts, where the work does not say it better: what is kept, and how to go on.
    """
    found = ending(work, resume)
    tell(found.message)
    return found.code


def ending(work: Callable[[], object], resume: str) -> Ending:
    """Does the work of a command and returns how it ended; arguments as of `exit_code`."""
    try:
        with any_terminal(), _terminated_like_interrupted():
            work()
    except SystemExit as exit_:  # tyro: a wrong option, or --help
        return Ending(exit_.code if isinstance(exit_.code, int) else WRONG)
    except KeyboardInterrupt as stopped:
        return Ending(INTERRUPTED, f"\nInterrupted: {str(stopped) or resume}")
    except (NammError, OSError) as error:
        named = isinstance(error, OSError) and error.errno in OTHER_THING and error.filename is not None
        expected = isinstance(error, NammError) or named or error.errno in NO_ROOM
        if not expected or debugging():
            raise
        if named and not isinstance(error, NammError):
            reason = (error.strerror or "cannot be opened").lower()
            error = ConfigError(
                f"Expected another kind of file or folder at {error.filename!s}, or the right to open it, found: "
                f"{reason}; check the path that was given."
            )
        elif not isinstance(error, NammError):
            error = UnfinishedError(f"A file could not be written: {error}; make room, the same command continues.")
        broke = isinstance(error, UnfinishedError | StorageError | RankError)
        return Ending(FAILED if broke else WRONG, f"error: {error}", isinstance(error, RankError))
    return Ending()


def tell(message: str) -> None:
    """Says how a command ended, on stderr."""
    with suppress(OSError, SystemExit), any_terminal():  # where nobody listens there is nothing to say
        if not message:
            return
        Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


def debugging() -> bool:
    """Whether tracebacks are wanted (`NAMM_DEBUG=1`)."""
    return os.environ.get("NAMM_DEBUG") == "1"


def read_config(path: Path, kind: type[Config]) -> Config:
    """The configuration that an earlier run wrote beside its results.

    Args:
        path: Of its config.json.
        kind: Dataclass of the settings.

    Raises:
        ConfigError: It cannot be read, has a setting that `kind` lacks, or one of another type.
    """
    values = read_json(path, ConfigError)
    known = {entry.name for entry in fields(kind)}
    if not isinstance(values, dict) or set(values) - known:
        wrong = sorted(set(values) - known)[0] if isinstance(values, dict) else "no object"
        raise ConfigError(f"{path} has a setting that this command lacks: {wrong!r}. {did_you_mean(wrong, known)}")
    return build(kind, values, Origin(str(path), ConfigError))


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A polite kill (SIGTERM, as schedulers send) ends a run as Ctrl-C does; only the main thread can ask for it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
