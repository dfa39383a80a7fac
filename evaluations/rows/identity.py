"""What tells one experiment from every other: a few random letters, drawn once and kept in its folder.

The folder's name does not: two experiments on one machine, or on two, are often both called "rl". The identity goes
where the folder goes, so a moved or renamed experiment is still the same one, and so is a copy: the rows that both have
are the same measurements. `renew_identity` makes a copy an experiment of its own. Several processes may ask at once.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

FILE = "experiment.id"


def experiment_identity(folder: Path) -> str:
    """The identity of the experiment in a folder, drawn when it is first asked for.

    Args:
        folder: Exists.

    Raises:
        OSError: It can be neither read nor kept.
    """
    path = folder / FILE
    found = _read(path)
    if found is None:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{FILE}.", dir=folder)
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_hex(8) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            _place(temporary, path)
            if _read(path) is None:  # damaged: nobody can have used it
                os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        found = _read(path)
    if found is None:
        raise OSError(f"{path} does not hold what was written")
    return found


def renew_identity(folder: Path) -> None:
    """Makes the experiment in a folder another one than it was.

    Raises:
        OSError: The folder cannot be written.
    """
    (folder / FILE).unlink(missing_ok=True)


def _place(temporary: str, path: Path) -> None:
    """Puts a file where none is; where another process was faster, its identity counts."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        os.replace(temporary, path)


def _read(path: Path) -> str | None:
    try:
        text = path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{16}", text) else None
