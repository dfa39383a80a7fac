"""What a transfer experiment plays on one target: references first, then everybody at the same sizes.

Sizes are parts of the tokens that the full cache held. Rivals get a budget; a NAMM divides what it is given over layers
and heads as it likes, under a threshold that a pass without labels has found, and so does a rival that is to have the
same freedom. Where heads are to be equal a NAMM ranks inside the same budget. All follows from rows alone, as in every
plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from evaluations.control.plan import PROTECTED_LAST
from evaluations.control.sizes import match_budget, tokens_seen
from evaluations.experiment.contract import FinishedRows, Size, Unit
from evaluations.experiment.matching import context_budget
from evaluations.experiment.names import NamedPolicy
from evaluations.rows.file import Row
from evaluations.rows.policy_names import FULL
from evaluations.rows.trials import trials

Heads = Literal["free", "equal"]
"""How a NAMM divides its size: as it likes, or as its rivals must, a budget in every head."""
RANKING = "threshold=-1e9"
"""Of a NAMM that a budget bounds: everything passes."""


class Sizes(Protocol):
    """How a part of the tokens becomes a budget."""

    def budget(self, share: float, full: Sequence[Row], protected_first: int) -> int:
        """Slots per KV head after an update.

        Args:
            share: Of the tokens.
            full: Rows of the full cache.
            protected_first: Oldest tokens that some policy never evicts.
        """
        ...


@dataclass(frozen=True)
class PromptSizes:
    """Of prompts: what is held when the question comes."""

    interval: int
    protected_last: int

    def budget(self, share: float, full: Sequence[Row], protected_first: int) -> int:
        """See Sizes."""
        tokens = [prompt["tokens"] for row in full for prompt in trials(row)]
        return context_budget(
            share * float(np.mean(tokens)), tokens, self.interval, protected_first + self.protected_last
        )


@dataclass(frozen=True)
class EpisodeSizes:
    """Of episodes: what is held on average over their steps."""

    interval: int

    def budget(self, share: float, full: Sequence[Row], protected_first: int) -> int:
        """See Sizes."""
        lengths = [episode["length"] for row in full for episode in trials(row)]
        asked = share * float(np.mean([tokens_seen(length).mean() for length in lengths]))
        return match_budget(asked, lengths, self.interval, protected_first + PROTECTED_LAST).budget


@dataclass(frozen=True)
class Attached:
    """A NAMM on the target."""

    runner: str
    """Names the runner that has it attached."""
    statistics: str

    def policy(self, option: str = "") -> NamedPolicy:
        """By name."""
        return NamedPolicy.of(f"namm:{self.statistics}{f'({option})' if option else ''}")

    def sized(self, seeds: tuple[int, ...], share: float, budget: int, heads: Heads) -> Unit:
        """The unit in which it holds a part of the tokens."""
        if heads == "free":
            return Unit(self.runner, self.policy(f"keep={share}"), seeds, "free", share=share)
        return Unit(self.runner, self.policy(RANKING), seeds, "given", Size(budget=budget), share=share)


@dataclass(frozen=True)
class EqualPlan:
    """Everybody on one target."""

    target: str
    """Names the runner of references and rivals."""
    references: tuple[NamedPolicy, ...]
    rivals: tuple[NamedPolicy, ...]
    namms: tuple[Attached, ...]
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    """Parts of the tokens that everybody is given."""
    own: bool
    """Whether NAMMs also play at the size that they choose."""
    sizes: Sizes
    heads: tuple[Heads, ...] = ("free",)
    free_rivals: tuple[NamedPolicy, ...] = ()
    """Those that get a NAMM's freedom besides."""

    def main(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units that can be known so far, and whether these are all."""
        first = [Unit(self.target, spec, self.seeds, "reference") for spec in self.references]
        if self.own:
            first += [Unit(namm.runner, namm.policy(), self.seeds, "free") for namm in self.namms]
        full = rows(next(unit for unit in first if unit.spec.label == FULL))
        if full is None:
            return first, False
        protected = max((spec.protected_first for spec in self.rivals), default=0)
        budgets = {share: self.sizes.budget(share, full, protected) for share in self.shares}
        return [*first, *(unit for share, budget in budgets.items() for unit in self._sized(share, budget))], True

    def points(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """No curves: several sizes are several comparisons."""
        del rows
        return [], True

    def most_cells(self) -> int:
        """Cells of the whole plan."""
        several = len(self.rivals) + len(self.free_rivals) + len(self.namms) * len(self.heads)
        sized = several * len(self.shares)
        return (len(self.references) + len(self.namms) * self.own + sized) * len(self.seeds)

    def _sized(self, share: float, budget: int) -> list[Unit]:
        namms = [namm.sized(self.seeds, share, budget, heads) for heads in self.heads for namm in self.namms]
        size = Size(budget=budget)
        rivals = [Unit(self.target, spec, self.seeds, "given", size, share=share) for spec in self.rivals]
        free = [Unit(self.target, spec.sized(share), self.seeds, "free", share=share) for spec in self.free_rivals]
        return [*namms, *rivals, *free]
