"""Files that are there whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from namm.errors import StorageError


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, as hex digits: what ``sha256sum`` prints.

    Raises:
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file by new content; a reader sees the old one or the new one, never half of it.

    Any number of processes may write the same file at once: one of them is the last.

    Args:
        path: In a folder that exists.
        content: Text is written as UTF-8.

    Raises:
        StorageError: The file could not be written (full disk, no permission); what was there is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            f"Expected to write {len(data):,} bytes to {path}, found: {error.strerror or error}. What was saved "
            "before is intact; free space or make the folder writable, then run the same command again."
        ) from error
