"""Plays a plan to its end, beside any number of other processes that do the same in the same folder.

Every process looks at the rows that are there, claims a unit that has none, plays it, adds its rows, and looks again.
Nothing else is shared: a rank of torchrun, a job of an array and a second terminal are all the same to it. The one that
holds the claim of the plan leads: it shows the progress, mirrors to Weights & Biases and draws the report.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluations.commands.progress import Display
from evaluations.experiment.claims import Claims
from evaluations.experiment.contract import Plan, Runner, Unit
from evaluations.experiment.telling import Telling
from evaluations.experiment.workers import Outcome, Players
from evaluations.rows.file import UnfinishedError
from evaluations.rows.results import Cell, Results, Row

LOOK_SECONDS = 0.5
"""Between two looks at what others have finished."""
DEATHS = 2
"""Workers that a unit may cost before it is left alone."""


@dataclass
class Session:
    """One process's part in an experiment: what it plays, and when it is done."""

    plans: Sequence[Plan]
    runners: Mapping[str, Runner]
    results: Results
    claims: Claims
    players: Players
    display: Display
    versions: Mapping[str, Mapping[str, str]]
    """What rows are made with, by modality."""
    telling: Telling
    leads: bool = False
    """Shows, mirrors and draws, for all that play the same plans."""
    _playing: dict[Unit, list[str]] = field(default_factory=dict)
    _deaths: dict[Unit, int] = field(default_factory=dict)
    _played: set[str] = field(default_factory=set)
    _cells_of: dict[Unit, list[Cell]] = field(default_factory=dict)
    _known: dict[int, list[Unit]] = field(default_factory=dict)
    _error: Exception | None = None

    def run(self) -> list[Row]:
        """Returns when every cell of the plans has a row, with the rows in the order of the plan.

        Raises:
            UnfinishedError: Workers were killed, and nobody is left to play what they were playing.
            Exception: What a unit raised, after the units that were being played beside it have been kept.
        """
        self.telling.earlier = self.results.keys()
        while True:
            self.results.refresh()
            self.lead()
            units, all_known = self._units()
            self._announce(units, all_known)
            unfinished = [unit for unit in units if self._unfinished(unit)]
            if self._error is not None and not self._playing:
                raise self._error
            if all_known and not unfinished and not self._playing:
                break
            others = self._start(unfinished)
            self._mirror(units, at_most=1)
            if self._playing:
                for outcome in self.players.wait(LOOK_SECONDS):
                    self._end(outcome)
            elif others:
                time.sleep(LOOK_SECONDS)
            else:
                raise self._stuck(unfinished)
        self._mirror(units)
        return [row for unit in units for row in self.rows(unit) or ()]

    def rows(self, unit: Unit) -> list[Row] | None:
        """The rows of a unit, or None while one is missing."""
        rows = self.results.rows(self._cells(unit))
        if len(rows) < len(unit.seeds):
            return None
        # a row may have been played for another reason, at the same size
        return [{**row, "memory": {**row["memory"], **unit.facts()}} for row in rows]

    def lead(self) -> bool:
        """Whether this process leads; it takes over where nobody does."""
        if not self.leads and self.claims.take([self.key]):
            self.leads = True
            self.display.show()
        return self.leads

    @property
    def key(self) -> str:
        """Of the claim that the leader holds: the same for all processes that play the same plans."""
        first = [
            cell.key for plan in self.plans for unit in plan.main(lambda unit: None)[0] for cell in self._cells(unit)
        ]
        return hashlib.sha256(repr([self.plans, first]).encode()).hexdigest()

    def _units(self) -> tuple[list[Unit], bool]:
        """Every unit that can be known by now, all comparisons before all curves; and whether these are all."""
        units: list[Unit] = []
        parts = [*(plan.main for plan in self.plans), *(plan.points for plan in self.plans)]
        for index, part in enumerate(parts):
            known = self._known.get(index)
            if known is None:
                known, complete = part(self.rows)
                self._known |= {index: known} if complete else {}
            units += known
        return units, len(self._known) == len(parts)

    def _cells(self, unit: Unit) -> list[Cell]:
        if unit not in self._cells_of:
            runner, versions = self.runners[unit.target], self._versions(unit)
            self._cells_of[unit] = [runner.cell(unit, seed, versions) for seed in unit.seeds]
        return self._cells_of[unit]

    def _versions(self, unit: Unit) -> Mapping[str, str]:
        return self.versions[self.runners[unit.target].modality]

    def _unfinished(self, unit: Unit) -> list[Cell]:
        return [cell for cell in self._cells(unit) if self.results.get(cell) is None]

    def _start(self, unfinished: Sequence[Unit]) -> bool:
        """Fills the players with units that nobody plays; says whether another process plays one."""
        others = False
        for unit in unfinished:
            if unit in self._playing or self._deaths.get(unit, 0) >= DEATHS:
                continue
            if not self.players.room() or self._error is not None:
                break
            keys = [cell.key for cell in self._unfinished(unit)]
            if not self.claims.take(keys):
                others = True
                continue
            self.results.refresh()  # whoever held the claim may have finished it
            cells = self._unfinished(unit)
            if not cells:
                self.claims.release(keys)
                others = True
                continue
            self._playing[unit] = keys
            self.players.start(unit, cells)
        self.display.working_on(", ".join(unit.label for unit in self._playing))
        return others

    def _end(self, outcome: Outcome) -> None:
        """Keeps what came out of a unit and gives its claim back."""
        unit = outcome.unit
        if outcome.error is not None:
            self._error = self._error or outcome.error
        elif outcome.contents is None:
            self._deaths[unit] = self._deaths.get(unit, 0) + 1
        else:
            versions = dict(self._versions(unit))
            contents = [{**content, "versions": versions} for content in outcome.contents]
            self.results.append(outcome.cells, contents)
            self._played |= {cell.key for cell in outcome.cells}
        self.claims.release(self._playing.pop(unit))

    def _announce(self, units: Sequence[Unit], all_known: bool) -> None:
        if all_known:
            self.display.expect(sum(len(unit.seeds) for unit in units))
        for unit in units:
            self.telling.announce(unit, self._cells(unit), self.rows(unit) or (), self._played)

    def _mirror(self, units: Sequence[Unit], at_most: int | None = None) -> None:
        if self.leads:
            self.telling.show(units, self.rows, at_most)

    def _stuck(self, unfinished: Sequence[Unit]) -> UnfinishedError:
        lost = "; ".join(f"{unit.label} ({len(self._unfinished(unit))} seeds)" for unit in unfinished)
        return UnfinishedError(
            f"Every cell must be played, found these unfinished because worker processes were killed (no memory "
            f"left?), and whatever follows from them: {lost}. Finished rows are kept and the same command continues; "
            "fewer --workers leave more memory for each."
        )
