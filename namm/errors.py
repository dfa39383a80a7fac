"""Errors a user can cause, each with a message of three parts: expected, found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NammError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(NammError, ValueError):
    """A setting is impossible or contradicts another one."""


class UnknownNameError(NammError, KeyError):
    """A name (policy, environment, task, statistics mode) is not registered."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CheckpointError(NammError):
    """A checkpoint is missing, damaged or of another kind than expected."""


class StorageError(CheckpointError):
    """A checkpoint could not be written, for want of room or permission; what was saved before is intact."""


class RankError(NammError):
    """Another process of a run ended or does not answer; what was saved is intact."""


class DataError(NammError):
    """A dataset or results file is missing, damaged or of the wrong shape."""


class AttachError(NammError):
    """A model cannot be driven by a Memory, or a Memory was used out of order."""


class SimulatorError(NammError):
    """An environment raised, or the process that steps it has ended."""


class MissingExtraError(NammError, ImportError):
    """An optional package is needed; the message carries the install line."""


MANY = 40
"""From more known names than this on a message tells where they are, not what."""


def did_you_mean(name: str, known: Iterable[str], listed: str = "") -> str:
    """Ends an error message: the closest known names, then all of them, or where all of them are.

    Args:
        name: What the user wrote.
        known: Every accepted name.
        listed: Where somebody can read them, such as "docs/models.md"; said where there are too many for a message.

    Returns:
        A sentence such as ``Did you mean 'h2o'? Known: full, h2o, window.``
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    if len(names) <= MANY:
        return f"{hint}Known: {', '.join(names)}."
    where = f"listed in {listed}" if listed else "such as " + ", ".join(difflib.get_close_matches(name, names, 6, 0.0))
    return f"{hint}Known: {len(names)} names, {where}."
