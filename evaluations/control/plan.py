"""What a control experiment plays, in which order, and which sizes follow from which results.

A unit is a target, a policy and a size; its seeds are played as one batch. First come the references and NAMM, which
decides its size for itself. The rivals' size follows from NAMM's rows of the same target. The points of the curves,
score against size, follow from the episode lengths of the full cache, their right end. Everything follows from rows
alone, so all processes that share a folder of rows see the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from evaluations.analysis.summary import PolicySummary, summarise
from evaluations.experiment.matching import Match, curve_budgets, match_budget
from evaluations.rows.results import Row

Role = Literal["reference", "free", "matched", "given", "curve"]
"""Why a unit has its size: nobody asks it to forget; NAMM decides; NAMM's size; `--budget`; a point of a curve."""

PROTECTED_LAST = 3
"""Newest tokens that no policy evicts: an agent must see the present step."""

SINKS = 4
"""Oldest tokens that a policy with sinks never evicts: the first step and the next return-to-go."""


@dataclass(frozen=True)
class PolicySpec:
    """A policy as a user names it: `window`, `h2o`, `native_window`, `namm:target`, ..."""

    name: str
    statistics: str | None = None

    @property
    def label(self) -> str:
        """The name in tables."""
        if self.statistics is not None:
            return f"{self.name} ({self.statistics})"
        return "native window" if self.name == "native_window" else self.name

    @property
    def is_reference(self) -> bool:
        """Nobody asks it to forget."""
        return self.name in ("native_window", "full")

    @property
    def needs_budget(self) -> bool:
        """It must be told how many slots to keep."""
        return not self.is_reference and self.name != "namm"

    @property
    def protected_first(self) -> int:
        """Oldest tokens it never evicts."""
        return SINKS if self.name == "sink_window" else 0


@dataclass(frozen=True)
class Unit:
    """Cells that differ in nothing but the seed and are played as one batch."""

    target: str
    spec: PolicySpec
    seeds: tuple[int, ...]
    role: Role
    budget: int | None = None
    match: Match | None = None
    matched_to: str | None = None
    """Label of the NAMM whose size was asked for."""
    matched_by: Literal["best", "declared"] | None = None
    """Whether scores chose that NAMM, or the user."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        size = f" · budget {self.budget}" if self.role == "curve" else ""
        return f"{self.target} · {self.spec.label}{size}"

    @property
    def threshold(self) -> float | None:
        """Lowest score that a NAMM keeps; None leaves it at the NAMM's own.

        On a curve everything passes and the budget alone decides: NAMM then holds as much as each rival, so a point
        compares which tokens are held, at sizes below and above the one that its own threshold would choose.
        """
        return -math.inf if self.role == "curve" and self.spec.name == "namm" else None

    def facts(self) -> dict[str, object]:
        """What a row says about its size."""
        if self.match is None:
            return {"role": self.role, "matched_to": None}
        return {"role": self.role, "matched_to": self.matched_to, "matched_by": self.matched_by, **asdict(self.match)}


FinishedRows = Callable[[Unit], Sequence[Row] | None]
"""All rows of a unit, or None while any is missing."""


@dataclass(frozen=True)
class Plan:
    """Policies, seeds and how sizes are chosen, for one target."""

    target: str
    specs: tuple[PolicySpec, ...]
    seeds: tuple[int, ...]
    interval: int
    budget: int | None = None
    """Slots of every policy that forgets; None matches the rivals to NAMM."""
    match: str = "best"
    """Whose size the rivals get: the best NAMM's, or e.g. `namm:target`'s."""
    curve: int = 0
    """Points of each curve."""
    curve_seeds: tuple[int, ...] = ()

    def main(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units of the comparison that can be known so far, and whether these are all."""
        first = [self._first(spec) for spec in self.specs if not spec.needs_budget or self.budget is not None]
        rivals = [spec for spec in self.specs if spec.needs_budget and self.budget is None]
        if not rivals:
            return first, True
        found = [rows(unit) for unit in first if unit.spec.name == "namm"]
        if not found or None in found:
            return first, False
        anchor = self._anchor([row for several in found for row in several or ()])
        matched = {spec: self._matched(spec, anchor) for spec in rivals}
        own = {unit.spec: unit for unit in first}
        return [*first, *(matched[spec] for spec in self.specs if spec not in own)], True

    def points(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units of the curves, and whether they can be known so far."""
        forget = [spec for spec in self.specs if not spec.is_reference]
        if not self.curve or not forget:
            return [], True
        full = rows(self._first(PolicySpec("full")))
        if full is None:
            return [], False
        lengths = [e["length"] for row in full if row["seed"] in self.curve_seeds for e in row["episodes"]]
        budgets = curve_budgets(lengths, self.interval, self.curve, smallest=SINKS + PROTECTED_LAST + 1)
        return [Unit(self.target, spec, self.curve_seeds, "curve", size) for size in budgets for spec in forget], True

    def most_cells(self) -> int:
        """Cells of the whole plan; a short episode may have fewer points."""
        forget = sum(not spec.is_reference for spec in self.specs)
        return len(self.specs) * len(self.seeds) + forget * self.curve * len(self.curve_seeds)

    def _first(self, spec: PolicySpec) -> Unit:
        if spec.is_reference:
            return Unit(self.target, spec, self.seeds, "reference")
        role: Role = "free" if self.budget is None else "given"
        return Unit(self.target, spec, self.seeds, role, self.budget)

    def _matched(self, spec: PolicySpec, anchor: PolicySummary) -> Unit:
        lengths = [episode["length"] for row in anchor.rows for episode in row["episodes"]]
        asked = sum(e["slots_mean"] for row in anchor.rows for e in row["episodes"]) / len(lengths)
        match = match_budget(asked, lengths, self.interval, spec.protected_first + PROTECTED_LAST)
        by: Literal["best", "declared"] = "best" if self.match == "best" else "declared"
        return Unit(self.target, spec, self.seeds, "matched", match.budget, match, anchor.policy, by)

    def _anchor(self, rows: Sequence[Row]) -> PolicySummary:
        summary = summarise(rows)[0]
        label = PolicySpec("namm", self.match.partition(":")[2]).label
        found = summary.best_namm if self.match == "best" else summary.get(label)
        assert found is not None  # the options were checked: --match names a NAMM of this run
        return found
