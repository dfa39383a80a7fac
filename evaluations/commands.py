"""How a command ends: one line and an exit code for whatever stops it, never a traceback for what a user can mend.

0 is done, 1 means that something broke on the way and the same command continues, 2 is a mistake in the input, 130 an
interruption. `NAMM_DEBUG=1` shows where an error comes from.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from evaluations.rows import UnfinishedError
from namm.errors import ConfigError, NammError, StorageError, did_you_mean

FAILED, WRONG, INTERRUPTED = 1, 2, 130
Config = TypeVar("Config", bound=Any)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def exit_code(work: Callable[[], object], resume: str) -> int:
    """Does the work of a command and returns the exit code of its process.

    Args:
        work: Parses the command line and does what it says.
        resume: Said to whoever interrupts, where the work does not say it better: what is kept, and how to go on.
    """
    errors = Console(stderr=True)
    try:
        with _terminated_like_interrupted():
            work()
    except SystemExit as exit_:  # tyro: a wrong option, or --help
        return exit_.code if isinstance(exit_.code, int) else WRONG
    except KeyboardInterrupt as stopped:
        errors.print(f"\nInterrupted: {str(stopped) or resume}", markup=False, highlight=False, soft_wrap=True)
        return INTERRUPTED
    except (NammError, OSError) as error:
        expected = isinstance(error, NammError) or error.errno in NO_ROOM
        if not expected or os.environ.get("NAMM_DEBUG") == "1":
            raise
        if not isinstance(error, NammError):
            error = UnfinishedError(f"A file could not be written: {error}; make room, the same command continues.")
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return FAILED if isinstance(error, UnfinishedError | StorageError) else WRONG
    return 0


def read_config(path: Path, kind: type[Config], paths: Sequence[str]) -> Config:
    """The configuration that an earlier run wrote beside its results.

    Args:
        path: Of its config.json.
        kind: Dataclass of the settings.
        paths: Settings that are paths.

    Raises:
        ConfigError: It cannot be read, or has a setting that `kind` lacks.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config must be the config.json of an earlier run, found {path} ({error}).") from error
    known = {entry.name for entry in fields(kind)}
    if not isinstance(values, dict) or set(values) - known:
        wrong = sorted(set(values) - known)[0] if isinstance(values, dict) else "no object"
        raise ConfigError(f"{path} has a setting that this command lacks: {wrong!r}. {did_you_mean(wrong, known)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return kind(**{**values, **{name: Path(values[name]) for name in paths if values.get(name)}})


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
