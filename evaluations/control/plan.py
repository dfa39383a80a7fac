"""What a control experiment plays, in which order, and which sizes follow from which results.

A unit is a target, a policy and a size; its seeds are played as one batch. First come the references and NAMM, which
decides its size for itself. The rivals' size follows from NAMM's rows of the same target. The points of the curves,
score against size, follow from the episode lengths of the full cache, their right end. Everything follows from rows
alone, so all processes that share a folder of rows see the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evaluations.analysis.summary import PolicySummary, summarise
from evaluations.control.sizes import curve_budgets, match_budget
from evaluations.experiment.contract import FinishedRows, Matched, Role, Size, Unit
from evaluations.experiment.names import NamedPolicy
from evaluations.rows.policy_names import FULL
from evaluations.rows.results import Row

PROTECTED_LAST = 3
"""Newest tokens that no policy evicts: an agent must see the present step."""

SINKS = 4
"""Oldest tokens that some policies never evict: the first step and the next return-to-go."""


def threshold(unit: Unit) -> float | None:
    """Lowest score that a NAMM keeps; None leaves it at the NAMM's own.

    On a curve everything passes and the budget alone decides: NAMM then holds as much as each rival, so a point
    compares which tokens are held, at sizes below and above the one that its own threshold would choose.
    """
    return -math.inf if unit.role == "curve" and unit.spec.is_namm else None


@dataclass(frozen=True)
class Plan:
    """Policies, seeds and how sizes are chosen, for one target."""

    target: str
    specs: tuple[NamedPolicy, ...]
    seeds: tuple[int, ...]
    interval: int
    budget: int | None = None
    """Slots of every policy that forgets; None matches the rivals to NAMM."""
    match: str = "best"
    """Whose size the rivals get: the best NAMM's, or `namm:target`'s, say."""
    curve: int = 0
    """Points of each curve."""
    curve_seeds: tuple[int, ...] = ()

    def main(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units of the comparison that can be known so far, and whether these are all."""
        first = [self._first(spec) for spec in self.specs if not spec.is_rival or self.budget is not None]
        rivals = [spec for spec in self.specs if spec.is_rival and self.budget is None]
        if not rivals:
            return first, True
        found = [rows(unit) for unit in first if unit.spec.is_namm]
        if not found or None in found:
            return first, False
        anchor = self._anchor([row for several in found for row in several or ()])
        matched = {spec: self._matched(spec, anchor) for spec in rivals}
        own = {unit.spec: unit for unit in first}
        return [*first, *(matched[spec] for spec in self.specs if spec not in own)], True

    def points(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units of the curves, and whether they can be known so far."""
        forget = self._without_size()
        if not self.curve or not forget:
            return [], True
        full = rows(self._first(NamedPolicy.of(FULL)))
        if full is None:
            return [], False
        lengths = [e["length"] for row in full if row["seed"] in self.curve_seeds for e in row["episodes"]]
        protected = max(SINKS, *(spec.protected_first for spec in forget))
        smallest = protected + PROTECTED_LAST + 1  # every policy has a choice
        budgets = curve_budgets(lengths, self.interval, self.curve, smallest)
        sizes = [Size(budget=budget) for budget in budgets]
        return [Unit(self.target, spec, self.curve_seeds, "curve", size) for size in sizes for spec in forget], True

    def most_cells(self) -> int:
        """Cells of the whole plan; a short episode may have fewer points."""
        forget = len(self._without_size())
        return len(self.specs) * len(self.seeds) + forget * self.curve * len(self.curve_seeds)

    def _without_size(self) -> list[NamedPolicy]:
        """Those that a budget can be given to: they forget, and no size of their own is asked of them."""
        return [spec for spec in self.specs if not spec.is_reference and spec.keep is None]

    def _first(self, spec: NamedPolicy) -> Unit:
        if spec.is_reference:
            return Unit(self.target, spec, self.seeds, "reference")
        role: Role = "free" if self.budget is None else "given"
        return Unit(self.target, spec, self.seeds, role, Size(budget=self.budget))

    def _matched(self, spec: NamedPolicy, anchor: PolicySummary) -> Unit:
        lengths = [episode["length"] for row in anchor.rows for episode in row["episodes"]]
        asked = sum(e["slots_mean"] for row in anchor.rows for e in row["episodes"]) / len(lengths)
        match = match_budget(asked, lengths, self.interval, spec.protected_first + PROTECTED_LAST)
        by: Literal["best", "declared"] = "best" if self.match == "best" else "declared"
        matched = Matched(anchor.policy, by, match.asked, match.budget, match.predicted)
        return Unit(self.target, spec, self.seeds, "matched", Size(budget=match.budget), matched)

    def _anchor(self, rows: Sequence[Row]) -> PolicySummary:
        summary = summarise(rows)[0]
        found = summary.best_namm if self.match == "best" else summary.get(self.match)
        assert found is not None  # the options were checked: --match names a NAMM of this run
        return found
