"""LagKV: tokens that stand out from the range of those that come after them (arXiv 2504.04704).

The cache of a head, behind the sinks, is cut into parts of ``lag`` tokens. Each channel of a token's key is scaled by
the least and the largest value that it takes in the next part, and a token whose scaled channels vary much stands out;
the same with values. Tokens are ranked within their part, so every part keeps its share. The last whole part, and what
is behind it, have no part after them and stay. No query and no attention is looked at.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Policy, Selection, TokenView

LAG = 128
"""Tokens of a part, by default."""


class LagKV(Policy):
    """Rank within the part, from 0 to 1; 1 for the newest tokens, which nothing can be compared with."""

    name = "lagkv"
    defaults: ClassVar = {"protected_first": 4}

    def __init__(self, selection: Selection, lag: int | None = None, cross: bool = False) -> None:
        """How the cache is divided.

        Args:
            selection: The shared selection rule; ``protected_first`` are the paper's sinks.
            lag: Tokens of a part; 128 by default, but no more than a quarter of the budget, since up to two parts stay
                unjudged.
            cross: Compare parts by the share of its part's variation that each token has, instead of by ranks.

        Raises:
            ConfigError: A part of fewer than 2 tokens has no range.
        """
        super().__init__(selection)
        budget = selection.smallest_budget
        if lag is None:
            lag = LAG if budget is None else max(2, min(LAG, budget // 4))
        if lag < 2:
            raise ConfigError(f"A part must hold 2 tokens or more, found lag={lag}.")
        self.lag, self.cross = lag, cross

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Scores of all tokens; where there are not two parts yet, newer tokens score more."""
        judged = view.valid & (view.positions >= self.selection.protected_first)
        # each head's tokens from the left: parts begin behind its own oldest token
        order = judged.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        count = judged.sum(-1, keepdim=True)  # [batch, kv_heads, 1]
        parts = -(-order.shape[-1] // self.lag)
        place = torch.arange(parts * self.lag, device=order.device)
        held = place < count
        index = order.gather(-1, place.clamp_max(order.shape[-1] - 1).expand(*order.shape[:2], -1))
        spread = (self._spread(view.keys(), index) + self._spread(view.values(), index)) / 2
        if not self.cross:
            spread = spread.argsort(dim=-1).argsort(dim=-1) / self.lag
        next_ends = (torch.arange(parts, device=order.device) + 2) * self.lag
        compared = (next_ends <= count)[..., None].expand_as(spread)
        recency = place / count.clamp_min(1)
        score = torch.where(compared, spread, 1.0).flatten(2)
        score = torch.where(count < 2 * self.lag, recency, score)
        full = torch.ones(order.shape, device=order.device)  # sinks score 1, as the newest tokens
        taken = score[..., : order.shape[-1]].where(held[..., : order.shape[-1]], 1.0)
        return full.scatter(-1, order, taken)

    def _spread(
        self,
        states: Float[Tensor, "batch kv_heads slots width"],
        index: Int[Tensor, "batch kv_heads slots_in_parts"],
    ) -> Float[Tensor, "batch kv_heads parts lag"]:
        """Share of its part's variation that each token has; the last part, compared with nothing, has any number."""
        ordered = states.float().gather(2, index[..., None].expand(-1, -1, -1, states.shape[-1]))
        parts = ordered.unflatten(2, (-1, self.lag))  # [batch, kv_heads, parts, lag, width]
        following = torch.cat([parts[:, :, 1:], parts[:, :, -1:]], dim=2)
        least, largest = following.amin(3, keepdim=True), following.amax(3, keepdim=True)
        # a channel that never changes in the next part says nothing by its range: it must not divide by zero
        reach = (largest - least).clamp_min(torch.finfo(torch.float32).tiny)
        deviation = ((parts - least) / reach).std(dim=-1).nan_to_num(posinf=torch.finfo(torch.float32).max)
        return deviation.softmax(dim=-1)

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "lag": self.lag, "cross": self.cross}
