"""Which policies are given the same prompts, in which order and at which size.

The references and the NAMMs come first: a NAMM decides for itself. Then the rivals, each with the smallest budget whose
mean size, over the same prompts, is not below the NAMM's; `POLICY@heads` has as much as the NAMM in each layer and
head, so that what is left of the NAMM's lead is its choice of tokens, not of heads. All follows from rows alone: their
trials tell `tokens` and `slots`, their metrics `head_slots`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluations.experiment.contract import UNBOUNDED, FinishedRows, Matched, Size, Unit
from evaluations.experiment.matching import context_budget
from evaluations.experiment.names import NamedPolicy, named
from evaluations.rows.file import Row
from evaluations.rows.policy_names import FULL, PolicyName
from evaluations.rows.trials import trials
from namm.errors import ConfigError


@dataclass(frozen=True)
class MatchedPlan:
    """Policies and seeds on one set of prompts."""

    target: str
    policies: tuple[NamedPolicy, ...]
    seeds: tuple[int, ...]
    interval: int | None
    """Tokens between two updates; None where there is one update, after the context."""
    protected_last: int
    """Newest tokens that no policy evicts; no budget is smaller."""
    match: str | None
    """The NAMM whose mean size the rivals get; None where `size` says it."""
    size: Size = UNBOUNDED
    """Of all policies that forget, where it is given."""
    cap: float | None = None
    """Most that a NAMM may keep of each prompt, where it is free."""
    curve: int = 0
    """Budgets at which every policy that forgets is tried besides."""

    def main(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units that can be known so far, and whether these are all."""
        first = [self._first(spec) for spec in self.policies if not spec.is_rival or self.match is None]
        rivals = [spec for spec in self.policies if spec.is_rival]
        if not rivals or self.match is None:
            return first, True
        # what the rivals are matched to is read first
        first.sort(key=lambda unit: unit.spec.label != self.match)
        found = rows(first[0])
        if found is None:
            return first, False
        return [*first, *(self._matched(spec, found) for spec in rivals)], True

    def points(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """Every policy at budgets in equal ratios, below that at which nothing would be evicted; and whether known."""
        forget = self._without_size()
        if not self.curve or not forget:
            return [], True
        full = next((spec for spec in self.policies if spec.label == FULL), None)
        found = None if full is None else rows(self._first(full))
        if found is None:
            return [], full is None
        seen = float(np.mean([prompt["tokens"] for row in found for prompt in trials(row)]))
        smallest = max(spec.protected_first for spec in forget) + self.protected_last + 1
        if smallest >= seen:
            return [], True
        sizes = smallest * (seen / smallest) ** ((1 + np.arange(self.curve)) / (1 + self.curve))
        budgets = dict.fromkeys(round(size) for size in sizes.tolist())
        return [
            Unit(self.target, spec, self.seeds, "curve", Size(budget=budget)) for budget in budgets for spec in forget
        ], True

    def most_cells(self) -> int:
        """Cells of the whole plan."""
        forget = len(self._without_size())
        return (len(self.policies) + forget * self.curve) * len(self.seeds)

    def _without_size(self) -> list[NamedPolicy]:
        """Those that a budget can be given to: they forget, and no size of their own is asked of them."""
        return [spec for spec in self.policies if not (spec.is_reference or spec.by_head or spec.keep is not None)]

    def _first(self, spec: NamedPolicy) -> Unit:
        if spec.label == FULL:
            return Unit(self.target, spec, self.seeds, "reference")
        if self.size != UNBOUNDED:
            return Unit(self.target, spec, self.seeds, "given", self.size)
        return Unit(self.target, spec, self.seeds, "free", Size(kept_fraction=self.cap))

    def _matched(self, spec: NamedPolicy, rows: Sequence[Row]) -> Unit:
        tokens = [prompt["tokens"] for row in rows for prompt in trials(row)]
        asked = float(np.mean([prompt["slots"] for row in rows for prompt in trials(row)]))
        least = spec.protected_first + self.protected_last
        interval = None if spec.option("schedule", None) == "prompt" else self.interval
        size = Size(budget=context_budget(asked, tokens, interval, least))
        if spec.by_head:
            own = np.mean([row["metrics"]["head_slots"] for row in rows], axis=0).tolist()
            budgets = (tuple(context_budget(held, tokens, interval, least) for held in layer) for layer in own)
            size = Size(head_budgets=tuple(budgets))
        return Unit(self.target, spec, self.seeds, "matched", size, Matched(self.match or "", "declared", asked))


def chosen(
    names: Sequence[str], match: str | None, sized: bool, known: Iterable[str]
) -> tuple[tuple[NamedPolicy, ...], str | None]:
    """The policies, each once, and the label of the NAMM that rivals are matched to; None where a size is given.

    Args:
        names: As users write them.
        match: The NAMM that was named, if any.
        sized: Whether the size of all policies is given.
        known: Policies that the experiment has.

    Raises:
        UnknownNameError: A name is not known.
        ConfigError: Rivals have no size.
    """
    policies = named(names, known)
    allocated = [spec.label for spec in policies if spec.by_head]
    if sized:
        if match is not None:
            raise ConfigError(f"A size is given, so nothing is matched to {match!r}; leave out --match or the size.")
        if allocated:
            raise ConfigError(f"{', '.join(allocated)} take the size of a NAMM, and --budget gives another; leave one.")
        return policies, None
    rivals = [spec.label for spec in policies if spec.is_rival]
    namms = [spec.label for spec in policies if spec.is_namm]
    match = None if match is None else str(PolicyName.parse(match))
    if match is not None and match not in namms:
        raise ConfigError(f"{', '.join(rivals) or 'rivals'} are matched to {match!r}, not among --policy; add it.")
    if rivals and not namms:
        raise ConfigError(
            f"{', '.join(rivals)} need a size: pass --budget or --kept-fraction, or run a NAMM beside them to be "
            "matched to; add it."
        )
    return policies, match or (namms[0] if namms else None)
