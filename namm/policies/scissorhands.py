"""Scissorhands: tokens that were important stay important, and importance is counted (arXiv 2305.17118).

Over a history of queries it is counted how often a token got less attention than the average token the query saw;
tokens with the highest counts go. The newest tokens count as always important. The paper evicts half the budget at a
time whenever the cache is full; here as many go at an update as the interval brought.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Asked, Policy, Selection, State, TokenView


class Scissorhands(Policy):
    """Fewest counts of below-average attention."""

    name = "scissorhands"
    observes_attention = True

    def __init__(self, selection: Selection, history: int = 400, recent: int = 10) -> None:
        """A history and a recent window; the defaults are the paper's.

        Args:
            selection: The shared selection rule.
            history: Last queries over which is counted. More than an interval are rounded up to whole ones.
            recent: Newest tokens whose count is taken as 0.

        Raises:
            ConfigError: A history without queries, or fewer than no recent tokens.
        """
        super().__init__(selection)
        if history < 1 or recent < 0:
            raise ConfigError(
                f"Expected a history of 1 query or more and 0 recent tokens or more, found {history} and {recent}."
            )
        at_once = selection.schedule == "prompt" or selection.interval is None
        self.intervals = 1 if at_once else -(-history // selection.interval)
        self.history, self.recent = history, recent
        self.observed_queries = history if self.intervals == 1 else None

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Counts of the last intervals, oldest first."""
        return {"counts": (self.intervals,)}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, asked: Asked) -> State:
        """Queries that saw the token and gave it less than one part in as many as they saw."""
        average = (1.0 - 1e-5) / asked.visible  # a query that saw one token gave it 1, give or take rounding
        low = (columns < average) & (asked.distance >= 0)
        return {"counts": torch.cat([state["counts"][..., 1:], low.float().sum(-1, keepdim=True)], dim=-1)}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Minus the count: -99 was below average 99 times."""
        return -view.state["counts"].sum(-1).masked_fill(view.age < self.recent, 0.0)

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "history": self.history, "recent": self.recent}
