"""SnapKV: what the last queries look at, smoothed over neighbours (arXiv 2404.14469).

The newest tokens form an observation window and always stay. An older token's score is the mean attention that the
window's queries paid it, pooled over the tokens beside it in the cache, so that what surrounds a hit stays with it. The
paper compresses a prompt once (``schedule="prompt"``); at every interval, the window is the interval's last queries.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

from namm.errors import ConfigError
from namm.policies.base import Places, Policy, Selection, State, TokenView

WINDOW = 32
"""Newest queries that observe, by default."""


class SnapKV(Policy):
    """Pooled attention of an observation window, averaged over the query heads of a KV head."""

    name = "snapkv"
    observes_attention = True

    def __init__(
        self,
        selection: Selection,
        window: int | None = None,
        kernel: int = 5,
        pooling: Literal["mean", "max"] = "mean",
    ) -> None:
        """An observation window and a pooling.

        Args:
            selection: The shared selection rule.
            window: Newest queries that observe and newest tokens that stay; 32 by default, but no more than half the
                budget. Where an interval is shorter, its queries observe.
            kernel: Tokens pooled together (odd); 1 pools none.
            pooling: "mean" as the authors' code and kvpress, "max" as Ada-KV's.

        Raises:
            ConfigError: A window larger than the budget, or a kernel or pooling that cannot be.
        """
        super().__init__(selection)
        budget = selection.smallest_budget
        if window is None:
            window = WINDOW if budget is None else max(1, min(WINDOW, budget // 2))
        if window < 1 or (budget is not None and window > budget):
            raise ConfigError(
                f"The observation window must hold from 1 token to the budget ({budget} slots), found {window}; give a "
                "smaller window or a larger budget."
            )
        if kernel < 1 or kernel % 2 == 0 or pooling not in ("mean", "max"):
            raise ConfigError(
                f"Pooling needs an odd kernel of 1 or more and 'mean' or 'max', found {kernel} and {pooling!r}."
            )
        self.window, self.kernel, self.pooling = window, kernel, pooling
        self.observed_queries = window

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """One number a token: the attention it received from the window."""
        return {"attention": ()}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """The window's mean; what earlier windows paid is forgotten."""
        return {"attention": columns.mean(-1)}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Pooled attention from 0 to 1; infinite inside the window."""
        inside = (view.age < self.window) & view.valid
        observed = view.state["attention"].masked_fill(inside | ~view.valid, 0.0)
        pool = avg_pool1d if self.pooling == "mean" else max_pool1d
        pooled = pool(observed, self.kernel, stride=1, padding=self.kernel // 2)
        return pooled.masked_fill(inside, torch.inf)

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "window": self.window, "kernel": self.kernel, "pooling": self.pooling}
