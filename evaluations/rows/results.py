"""Experiment = target x task x policy x seed: one cell of the grid gives one row of rows.jsonl.

A cell's key hashes every setting that decides its result, so a row is reused exactly when the same cell is asked for
again and never when a checkpoint, an option or the version of a package has changed. The code of this project is not
part of the key, or every edit would measure everything again; an experiment that keeps rows of other code says so
(evaluations/rows/provenance.py). A row is written at once and synced to the disk as its cell finishes: whatever stops
a run costs at most what it was playing, and the same command goes on.

Keys of a row: `schema key target task policy seed identity score score_name metrics versions seconds finished`,
its trials, and what the experiment adds; the `cells.py` of each modality documents its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluations.rows.file import Row, RowsFile, read_only
from evaluations.rows.score_kinds import settled
from namm.errors import ConfigError
from namm.files import write_atomically

SCHEMA = 1
"""Version of the row format; part of every key, so rows of another format are never reused."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    `target`, `task` and `policy` are the names shown to people, `identity` holds every other setting that decides the
    result (checksums, options, versions) as plain JSON values.
    """

    target: str
    task: str
    policy: str
    seed: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    keyed_as: str | None = None
    """The policy's name in the key, where rows were made before it had the name that is shown: they go on."""

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits that change whenever anything that decides the result changes."""
        content = [SCHEMA, self.target, self.task, self.keyed_as or self.policy, self.seed, dict(self.identity)]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """What the progress display calls this cell."""
        return f"{self.target} · {self.policy} · seed {self.seed}"


class Results:
    """The folder of one experiment: rows.jsonl, config.json and whatever is drawn from them.

    Other processes may be adding rows to the same folder: `refresh` takes in what they finished.

    Args:
        folder: Made if it is missing. Rows already in it are read; a damaged last line (a killed write) is moved to
            rows.damaged.

    Raises:
        ConfigError: If the folder cannot be made or written to; raised before any work is done.
        DataError: If a line in the middle of rows.jsonl is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "rows.jsonl"
        _require_writable(self.folder)
        self._file = RowsFile(self.path)
        self._rows: dict[str, Row] = {}
        self._elsewhere: dict[str, Row] = {}
        self.refresh()

    def reuse(self, folder: Path) -> int:
        """Lets cells be taken out of another experiment's folder, which is only read; returns how many rows it has.

        A row is copied into this folder when its cell is asked for.

        Raises:
            DataError: There are no rows, or a line is damaged.
        """
        found = read_only(folder / "rows.jsonl")
        self._elsewhere |= {row["key"]: row for row in found}
        return len(found)

    def refresh(self) -> None:
        """Reads what other processes have added."""
        new = self._file.read_new()
        self._rows |= {row["key"]: row for row in new}
        if new:
            self._settle()

    def get(self, cell: Cell) -> Row | None:
        """The finished row of a cell, or None."""
        return next(iter(self.rows([cell])), None)

    def rows(self, cells: Iterable[Cell]) -> list[Row]:
        """The finished rows of these cells, in their order; rows of other experiments in the folder are left out."""
        cells = list(cells)
        wanted = [cell.key for cell in cells if cell.key in self._elsewhere and cell.key not in self._rows]
        if wanted:
            self._take([self._elsewhere[key] for key in wanted])
        return [self._rows[cell.key] for cell in cells if cell.key in self._rows]

    def keys(self) -> frozenset[str]:
        """The keys of all rows in the folder."""
        return frozenset(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, cells: Sequence[Cell], contents: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Writes finished rows: all in one write, synced to the disk before this returns.

        Args:
            cells: What was run. A cell that another process has finished meanwhile keeps that one's row.
            contents: What came out of each; not-a-number becomes null.

        Returns:
            The rows of the cells as they can be read back.

        Raises:
            UnfinishedError: If the disk is full.
        """
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            _plain(
                {
                    "schema": SCHEMA,
                    "key": cell.key,
                    "target": cell.target,
                    "task": cell.task,
                    "policy": cell.policy,
                    "seed": cell.seed,
                    "identity": dict(cell.identity),
                    **content,
                    "finished": finished,
                }
            )
            for cell, content in zip(cells, contents, strict=True)
        ]
        self._take(rows)
        return self.rows(cells)

    def _take(self, rows: Sequence[Row]) -> None:
        others, added = self._file.append(rows)
        self._rows |= {row["key"]: row for row in (*others, *added)}
        self._settle()

    def _settle(self) -> None:
        """Gives the rows of a target one kind of score, should a new one have shown which it is."""
        corrected = settled(self._rows.values())
        if corrected:
            others, added = self._file.append(corrected, replace=True)
            self._rows |= {row["key"]: row for row in (*others, *added)}

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes the resolved configuration of the run beside its rows (atomically)."""
        write_atomically(self.folder / "config.json", json.dumps(_plain(config), indent=2) + "\n")


def _require_writable(folder: Path) -> None:
    """A real file is written: permission bits say little on network drives and nothing to root."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError as error:
        raise ConfigError(
            f"The output folder must be writable, found {folder} ({error.strerror}); pass another one with --out."
        ) from error


def _plain(value: Any) -> Any:
    """The same value out of JSON's own types; infinities and not-a-number become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
