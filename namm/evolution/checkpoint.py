"""A checkpoint that is either the old one or the new one, never half of each.

The tensors go to ``state-<generation>.safetensors``; ``state.json`` names that file with its digest and holds the plain
values. Replacing ``state.json`` is the commit: before it the old pair is untouched, after it the old tensors are
removed. Reading verifies the digest, so a truncated or altered file is an error and never a silently different run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from namm.errors import CheckpointError, ConfigError
from namm.files import write_atomically

STATE_FILE = "state.json"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from evolving in a folder; the claim dies with the process.

    Raises:
        ConfigError: Another process evolves there.
        CheckpointError: There is no such folder, nor can it be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"Expected a folder that can be written at {folder}, found: {error.strerror or error}; choose another."
        ) from error
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: expected to evolve there alone, found another process that does; wait for it, or choose "
                "another folder."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(place)


def save_state(folder: Path, generation: int, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Saves a state and removes the one before it.

    Args:
        folder: An existing folder.
        generation: Names the tensor file.
        tensors: Any tensors on the CPU.
        scalars: Plain values; floats survive exactly.

    Raises:
        StorageError: Writing failed; the earlier state is intact.
    """
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    name = f"state-{generation:06d}.safetensors"
    head = {
        "format": "namm-evolution-1",
        "tensors": name,
        "sha256": _digest(content, scalars),
        "scalars": scalars,
    }
    write_atomically(folder / name, content)
    write_atomically(folder / STATE_FILE, (json.dumps(head, indent=1, allow_nan=False) + "\n").encode())
    for old in folder.glob("state-*.safetensors*"):
        if old.name != name:
            with contextlib.suppress(OSError):  # a leftover costs space only; the next save tries again
                old.unlink()


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and plain values saved last.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = folder / STATE_FILE
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        if head["format"] != "namm-evolution-1":
            raise CheckpointError(
                f"{path}: expected format 'namm-evolution-1', found {head['format']!r}; "
                "it was saved by another version, use that one or start in an empty folder."
            )
        scalars, digest, tensors_path = head["scalars"], head["sha256"], folder / Path(head["tensors"]).name
        content = tensors_path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"Expected a saved evolution in {folder}, found: {error.strerror or error} ({error.filename}). "
            "Restore it, or start in an empty folder."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Expected {path} to describe a saved evolution, found damage ({error}). "
            "Restore it from a copy, or start in an empty folder."
        ) from error
    found = _digest(content, scalars)
    if found != digest:
        raise CheckpointError(
            f"{folder}: expected sha256 {str(digest)[:9]} of {STATE_FILE} and {tensors_path.name}, found {found[:9]}; "
            "one of them is truncated or was altered. Restore both from a copy, or start in an empty folder."
        )
    try:
        return safetensors.torch.load(content), scalars
    except SafetensorError as error:
        raise CheckpointError(f"{tensors_path}: expected safetensors, found {error}; use another folder.") from error


def _digest(content: bytes, scalars: dict[str, Any]) -> str:
    digest = hashlib.sha256(content)
    digest.update(json.dumps(scalars, sort_keys=True).encode())
    return digest.hexdigest()
