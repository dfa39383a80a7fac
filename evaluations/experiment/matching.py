"""Equal memory for unequal policies: the budget at which a rival holds as many tokens as NAMM did.

NAMM decides for itself how much to keep, a budgeted policy is told; they are comparable only when both hold the same
number of slots per KV head on average. For a budgeted policy that number needs no run: slots grow by one a token, and
when the tokens seen reach a multiple of the interval they are cut to the budget. A mean between two budgets takes the
larger: a rival never gets less than NAMM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Match:
    """A budget, and the mean slots per KV head it was asked to reach and is predicted to reach."""

    budget: int
    asked: float
    predicted: float


def slots_held(seen: Int[np.ndarray, " times"], interval: int, budget: int) -> Int[np.ndarray, " times"]:
    """Slots per KV head of a budgeted policy after it has seen so many tokens.

    At the k-th update min(k * interval, budget) slots remain, and every token since has one.

    Args:
        seen: Tokens seen, any number of moments.
        interval: Tokens between two updates.
        budget: Slots kept per KV head after an update.
    """
    updates, since = np.divmod(seen, interval)
    return np.minimum(updates * interval, budget) + since


def context_budget(asked: float, tokens: Sequence[int], interval: int | None, protected: int) -> int:
    """The smallest budget whose mean size over contexts, once they are read, is at least what NAMM held.

    Args:
        asked: Mean slots per KV head that NAMM held.
        tokens: Of each context.
        interval: Tokens between two updates; None for one update at the end of each context.
        protected: Tokens that no policy may evict; no budget is smaller.
    """
    seen = np.asarray(tokens)
    low = max(protected, 1)

    def held(size: int) -> float:
        return float(np.mean(np.minimum(seen, size) if interval is None else slots_held(seen, interval, size)))

    return smallest_budget(asked, held, low, max(low, max(tokens)))


def smallest_budget(asked: float, held: Callable[[int], float], low: int, high: int) -> int:
    """The smallest size between two that holds as much as was asked, or as `high` does, if that is less."""
    reachable = min(asked, held(high)) - 1e-9
    while low < high:
        middle = (low + high) // 2
        if held(middle) >= reachable:
            high = middle
        else:
            low = middle + 1
    return low
