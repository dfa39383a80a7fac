"""Equal memory for unequal policies: the budget at which a rival holds as many tokens as NAMM did.

NAMM decides for itself how much to keep, a budgeted policy is told; they are comparable only when both hold the same
number of slots per KV head, averaged over an episode. For a budgeted policy that number needs no run: slots grow by one
a token, and when the tokens seen reach a multiple of the interval they are cut to the budget. So the budget is solved
over NAMM's own episode lengths. A mean between two budgets takes the larger: a rival never gets less than NAMM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from namm.errors import ConfigError

TOKENS_PER_STEP = 3
"""A Decision Transformer reads return-to-go, state and action at every environment step."""


@dataclass(frozen=True)
class Match:
    """A budget, and the mean slots per KV head it was asked to reach and is predicted to reach."""

    budget: int
    asked: float
    predicted: float


def tokens_seen(steps: int) -> Int[np.ndarray, " steps"]:
    """Tokens in a Decision Transformer's memory as each action is chosen: the action of that step is not yet read."""
    return TOKENS_PER_STEP * np.arange(steps) + 2


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


def mean_slots(lengths: Sequence[int], interval: int, budget: int) -> float:
    """Slots per KV head of a budgeted policy: mean over an episode's steps, then over the episodes.

    Args:
        lengths: Environment steps of each episode.
        interval: Tokens between two updates.
        budget: Slots kept per KV head after an update.
    """
    longest = slots_held(tokens_seen(max(lengths)), interval, budget)
    running = np.cumsum(longest) / np.arange(1, len(longest) + 1)
    return float(np.mean(running[np.asarray(lengths) - 1]))


def match_budget(asked: float, lengths: Sequence[int], interval: int, protected: int) -> Match:
    """The smallest budget whose mean size is at least what NAMM held.

    Args:
        asked: Mean slots per KV head that NAMM held.
        lengths: Environment steps of NAMM's episodes.
        interval: Tokens between two updates.
        protected: Tokens that no policy may evict; no budget is smaller.

    Returns:
        The budget with its predicted mean. If even keeping everything holds less than `asked`, everything is kept; if
        the protected tokens alone hold more, they are the budget, and `predicted` says so.

    Raises:
        ConfigError: If there are no episodes to match.
    """
    if not lengths or min(lengths) < 1:
        raise ConfigError(
            f"Matching needs episodes of at least one step, found lengths {list(lengths)}; run NAMM first."
        )
    high = max(protected, TOKENS_PER_STEP * max(lengths))
    budget = _smallest(asked, lambda size: mean_slots(lengths, interval, size), max(protected, 1), high)
    return Match(budget, asked, mean_slots(lengths, interval, budget))


def prompt_budget(asked: float, tokens: Sequence[int], interval: int | None, protected: int) -> int:
    """The smallest budget whose mean size over prompts, when their questions come, is at least what NAMM held.

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

    return _smallest(asked, held, low, max(low, max(tokens)))


def _smallest(asked: float, held: Callable[[int], float], low: int, high: int) -> int:
    """The smallest size between two that holds as much as was asked, or as `high` does, if that is less."""
    reachable = min(asked, held(high)) - 1e-9
    while low < high:
        middle = (low + high) // 2
        if held(middle) >= reachable:
            high = middle
        else:
            low = middle + 1
    return low


def curve_budgets(lengths: Sequence[int], interval: int, points: int, smallest: int) -> tuple[int, ...]:
    """Budgets in equal ratios, from the smallest up to (not including) the size at which nothing is evicted any more.

    That size is what a full cache holds at the last update of an episode of mean length; there every curve ends in the
    full cache's own score.

    Args:
        lengths: Environment steps of the full cache's episodes.
        interval: Tokens between two updates.
        points: Budgets wanted; fewer come back where whole numbers are too few.
        smallest: The least budget with which every policy has a choice.

    Returns:
        Rising budgets; none if an episode is too short to evict anything.
    """
    seen = TOKENS_PER_STEP * float(np.mean(lengths)) - 1
    largest = int(seen // interval) * interval
    if largest <= smallest:
        return ()
    sizes = smallest * (largest / smallest) ** (np.arange(points) / points)
    return tuple(dict.fromkeys(int(size) for size in np.round(sizes)))
