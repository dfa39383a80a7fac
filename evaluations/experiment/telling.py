"""Tells of finished rows: a line on the terminal, and the mirror. Nothing here costs a result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluations.commands.progress import Display
from evaluations.experiment.claims import Claims
from evaluations.experiment.contract import Media, Mirror, Unit
from evaluations.rows.provenance import versions_differ
from evaluations.rows.results import Cell, Row
from evaluations.rows.trials import of

MIRROR = hashlib.sha256(b"mirror").hexdigest()
"""Whoever mirrors to Weights & Biases holds this claim meanwhile."""


@dataclass
class Telling:
    """What people are told of an experiment while it runs, each thing once."""

    display: Display
    mirror: Mirror
    media: Callable[[Unit, Sequence[Row]], Media]
    """What W&B shows of finished rows beside their numbers."""
    claims: Claims
    versions: Mapping[str, Mapping[str, str]]
    """What would make a row now, by modality."""
    earlier: frozenset[str] = frozenset()
    """Keys of cells that were there when this process began."""
    _announced: set[str] = field(default_factory=set)
    _mirrored: set[Unit] = field(default_factory=set)
    _differences: set[str] = field(default_factory=set)

    def announce(self, unit: Unit, cells: Sequence[Cell], rows: Sequence[Row], played: set[str]) -> None:
        """A line for each finished row.

        Args:
            unit: Of which they are.
            cells: Of the unit.
            rows: Theirs.
            played: Keys of the cells that this process has played.
        """
        for cell, row in zip(cells, rows, strict=False):
            if cell.key in self._announced:
                continue
            self._announced.add(cell.key)
            self._compare(cell, row)
            how = f"{row['seconds']:.1f} s" if cell.key in played else "by another process"
            how = "kept from an earlier run" if cell.key in self.earlier else how
            self.display.finished(cell.label, f"{_result(unit, row)} ({how})")

    def show(
        self, units: Sequence[Unit], rows_of: Callable[[Unit], list[Row] | None], at_most: int | None = None
    ) -> None:
        """Mirrors what is finished and not there yet.

        Args:
            units: Of the experiment.
            rows_of: Rows of a finished unit.
            at_most: Units to mirror in this call: each may take seconds, in which nothing is played.
        """
        for unit in units:
            rows = None if unit in self._mirrored else rows_of(unit)
            if rows is None or at_most == 0:
                continue
            self._mirrored.add(unit)
            if self.mirror.is_tracked(rows):
                continue
            at_most = None if at_most is None else at_most - 1
            self.display.working_on(f"{unit.label} · W&B")
            with self.claims.held(MIRROR):
                self.mirror.mirror(rows, self._drawn(unit, rows))
            for line in self.mirror.unsaid():
                self.display.say(line)

    def _drawn(self, unit: Unit, rows: Sequence[Row]) -> Media:
        """Pictures for the mirror; one that cannot be drawn costs a line."""
        try:
            return self.media(unit, rows)
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0]
            self.display.say(f"no pictures of {unit.label}: {type(error).__name__}: {told}")
            return Media()

    def _compare(self, cell: Cell, row: Row) -> None:
        """Says what made the rows that are kept, where that is not what would make them now."""
        difference = versions_differ(row["versions"], self.versions[of(row).modality])
        if difference and difference not in self._differences:
            self._differences.add(difference)
            self.display.say(
                f"warning: rows made with other versions are kept ({cell.label}: {difference}); to measure again, pass "
                "another --out"
            )


def _result(unit: Unit, row: Row) -> str:
    trials = of(row)
    caveat = trials.caveat(row)
    mark = f" ({caveat})" if caveat else ""
    size = f", budget {unit.budget}" if unit.role == "curve" else ""
    digits = trials.score(row["score_name"]).digits
    return f"{row['score_name']} {row['score']:.{digits}f}{mark}, {row['metrics']['slots_mean']:.1f} slots{size}"
