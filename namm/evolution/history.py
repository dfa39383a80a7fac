"""The record of an evolution: ``history.jsonl``, one row a generation, appended as it happens.

A row is written before the checkpoint of its generation. A run killed between the two leaves a row too many, one killed
while writing leaves half a row; `rewind` drops both, so that the repeated generation writes its row again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from namm.errors import CheckpointError, StorageError
from namm.files import write_atomically

HISTORY_FILE = "history.jsonl"


def append_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Adds one row and makes sure that it is on the disk.

    Raises:
        StorageError: It could not be written.
    """
    path = folder / HISTORY_FILE
    line = json.dumps(plain(row), allow_nan=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"Expected to append to {path}, found: {error.strerror or error}. The last checkpoint is intact; "
            "free space or make the folder writable, then run the same command again."
        ) from error


def rewind(folder: Path, generation: int) -> None:
    """Drops the rows after a generation, and a last line that was cut off.

    Raises:
        CheckpointError: Rows up to that generation are missing or damaged.
    """
    path = folder / HISTORY_FILE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    kept: list[str] = []
    for number, line in enumerate(lines[:generation], start=1):
        try:
            found = json.loads(line)["generation"]
        except (ValueError, KeyError, TypeError):
            found = "a damaged line"
        if found != number:
            raise CheckpointError(
                f"{path}: expected generation {number} in line {number}, found {found}; repair the line, "
                "or start in an empty folder."
            )
        kept.append(line)
    if len(kept) < generation:
        raise CheckpointError(
            f"{path}: expected {generation} rows, as many generations as the checkpoint beside it has, found "
            f"{len(kept)}; restore the file, or start in an empty folder."
        )
    if len(lines) != len(kept):
        write_atomically(path, "".join(line + "\n" for line in kept).encode())


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Every complete row, oldest first; a last line that was cut off is left out."""
    path = folder / HISTORY_FILE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise CheckpointError(
                    f"{path}: expected JSON in line {number}, found damage ({error}); repair or remove the line."
                ) from error
    return rows


def plain(value: Any) -> Any:
    """The value as JSON can hold it: tensors and arrays as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
