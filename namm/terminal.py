"""What a command prints, wherever it goes: a terminal that is not UTF-8, a pipe whose reader has left.

Neither may cost a result. Signs that a terminal lacks are written with those it has; a pipe that nobody reads any more
ends a command as it ends any other program, in silence.
"""

from __future__ import annotations

import codecs
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CLOSED = 141
"""Exit code of a command whose output nobody reads any more: 128 and the number of SIGPIPE."""

PLAIN = {
    "–": "-", "—": "-", "−": "-", "·": "*", "•": "*", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "→": "->", "…": "...",
    "‘": "'", "’": "'", "“": '"', "”": '"', "━": "-", "─": "-", "│": "|", "╸": "-", "╺": "-", "✓": "ok", "✗": "x",
}  # fmt: skip
"""Signs of this project's output in letters that every terminal has."""


@contextmanager
def any_terminal() -> Iterator[None]:
    """For the length of a command: what it prints is written as well as the terminal can, and a closed pipe ends it.

    Raises:
        SystemExit: Nobody reads the output any more.
    """
    codecs.register_error("plain", _in_plain_signs)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what a program puts in their place may lack it
        if reconfigure is not None:
            reconfigure(errors="plain")
    try:
        yield
    except BrokenPipeError:
        if not _is_closed():  # another pipe, of a process that has died: not for silence
            raise
        raise SystemExit(CLOSED) from None
    finally:
        _is_closed()  # what is still to be written is written now, not where nobody can catch what comes of it


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: what cannot be encoded, in signs that can."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _is_closed() -> bool:
    """Whether nobody reads the output; it then goes nowhere from now on."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
            place = stream.fileno()
            asked = select.poll()
            asked.register(place, 0)
            broken = any(told & (select.POLLERR | select.POLLHUP) for _, told in asked.poll(0))
        except BrokenPipeError:
            broken = True
        except (OSError, ValueError):  # no file at all
            continue
        if broken:
            found = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return found
