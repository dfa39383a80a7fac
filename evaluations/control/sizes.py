"""Sizes of a Decision Transformer's memory: what an episode of some length holds, and which budgets follow from that.

Slots are averaged over the steps of an episode, then over episodes; evaluations/experiment/matching.py has the rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from evaluations.experiment.matching import Match, slots_held, smallest_budget
from namm.errors import ConfigError

TOKENS_PER_STEP = 3
"""A Decision Transformer reads return-to-go, state and action at every environment step."""


def tokens_seen(steps: int) -> Int[np.ndarray, " steps"]:
    """Tokens in a Decision Transformer's memory as each action is chosen: the action of that step is not yet read."""
    return TOKENS_PER_STEP * np.arange(steps) + 2


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
    budget = smallest_budget(asked, lambda size: mean_slots(lengths, interval, size), max(protected, 1), high)
    return Match(budget, asked, mean_slots(lengths, interval, budget))


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
