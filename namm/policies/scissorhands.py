"""Scissorhands: tokens that were important stay important, and importance is counted (arXiv 2305.17118).

Section 4.1 and Algorithm 2: over a history of queries it is counted how often a token got less attention than the
average; tokens with the highest counts go, the newest count as never below it. The paper evicts half the buffer when it
is full, which is ``interval=N, budget=N`` here; another interval evicts as many as it brought.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Places, Policy, Selection, State, TokenView


class Scissorhands(Policy):
    """Fewest counts of below-average attention."""

    name = "scissorhands"
    observes_attention = True

    def __init__(
        self,
        selection: Selection,
        history: int = 400,
        recent: int = 10,
        average: Literal["seen", "step"] = "step",
    ) -> None:
        """A history and a recent window, as long as in the paper's experiments, and what an average token gets.

        Args:
            selection: The shared selection rule.
            history: Last queries over which is counted. More than an interval are rounded up to whole ones.
            recent: Newest tokens whose count is taken as 0.
            average: "step" for Algorithm 2's 1/t: one part in as many tokens as there have been up to the update,
                evicted ones too; "seen" for one part in as many as the query saw.

        Raises:
            ConfigError: A history without queries, fewer than no recent tokens, or another average.
        """
        super().__init__(selection)
        if history < 1 or recent < 0:
            raise ConfigError(
                f"Expected a history of 1 query or more and 0 recent tokens or more, found {history} and {recent}."
            )
        if average not in ("seen", "step"):
            raise ConfigError(f"The average is that of 'seen' tokens or of the 'step', found {average!r}.")
        interval = None if selection.schedule == "prompt" else selection.interval
        self.intervals = 1 if interval is None else -(-history // interval)
        self.history, self.recent, self.average = history, recent, average
        self.observed_queries = history if self.intervals == 1 else None

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Counts of the last intervals, oldest first."""
        return {"counts": (self.intervals,)}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """Queries that saw the token and gave it less than the average."""
        tokens = places.visible if self.average == "seen" else (places.queries[:, -1:] + 1)[:, None, None]
        average = (1.0 - 1e-5) / tokens  # a query that saw one token gave it 1, give or take rounding
        low = (columns < average) & (places.distance >= 0)
        return {"counts": torch.cat([state["counts"][..., 1:], low.float().sum(-1, keepdim=True)], dim=-1)}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Minus the count: -99 was below average 99 times."""
        return -view.state["counts"].sum(-1).masked_fill(view.age < self.recent, 0.0)

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "history": self.history, "recent": self.recent, "average": self.average}
