"""ExpectedAttention: what queries that have not come yet are expected to look at (arXiv 2510.00636).

Queries without their positions are taken as drawn from one Gaussian a head, whose mean and covariance are those of the
interval's queries. Turned to the next ``future`` positions, on average, it gives every key an expected weight in closed
form, ``exp(mean . key + key . covariance . key / 2)``, and that times the value's norm is the score.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Policy, Selection, TokenView


class ExpectedAttention(Policy):
    """Expected attention times the norm of the value; oldest tokens that are protected take no part in anything."""

    name = "expected_attention"
    reads_queries = True
    reads_rotation = True
    defaults: ClassVar = {"protected_first": 4}

    def __init__(
        self, selection: Selection, future: int = 512, covariance: bool = True, value_norm: bool = True,
        epsilon: float = 0.0,
    ) -> None:  # fmt: skip
        """How the future is modelled.

        Args:
            selection: The shared selection rule; ``protected_first`` are the paper's sinks.
            future: Positions over which the rotation is averaged.
            covariance: Count the spread of the queries, or their mean alone.
            value_norm: Weigh the expected attention by the norm of the value.
            epsilon: Added to the expected attention before that.

        Raises:
            ConfigError: No position to average over, or a negative epsilon.
        """
        super().__init__(selection)
        if future < 1 or epsilon < 0.0:
            raise ConfigError(
                f"ExpectedAttention averages over 1 future position or more and adds an epsilon of 0 or more, found "
                f"{future} and {epsilon}."
            )
        self.future, self.covariance, self.value_norm, self.epsilon = future, covariance, value_norm, epsilon

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Expected attention, mean over the group, times the value's norm; 0 for sinks, which are protected."""
        keys, scale = view.keys().float(), view.queries().scale
        mean, covariance = self._statistics(view)
        grouped = mean.unflatten(1, (keys.shape[1], -1))  # [batch, kv_heads, group, head_dim]
        logits = torch.einsum("bkgd,bknd->bkgn", grouped, keys) * scale
        if covariance is not None:
            spread = covariance.unflatten(1, (keys.shape[1], -1))
            for head in range(spread.shape[2]):  # one head of the group at a time: [batch, kv_heads, slots, head_dim]
                turned = torch.matmul(keys, spread[:, :, head])
                logits[:, :, head] += (turned * keys).sum(-1) * (scale**2 / 2)
        judged = view.valid & (view.positions >= self.selection.protected_first)
        weights = logits.masked_fill(~judged[:, :, None], -torch.inf).softmax(-1).nan_to_num(0.0).mean(2)
        if self.value_norm:
            weights = (weights + self.epsilon) * view.values().float().norm(dim=-1)
        return weights.masked_fill(~judged, 0.0)

    def _statistics(
        self, view: TokenView
    ) -> tuple[
        Float[Tensor, "batch query_heads head_dim"], Float[Tensor, "batch query_heads head_dim head_dim"] | None
    ]:
        """Mean and covariance of the queries, turned to the positions to come."""
        asked, rotation = view.queries(), view.rotation()
        raw = rotation.turned(asked.states.float(), -asked.positions[:, None])  # as if at position 0
        counted = (asked.positions >= self.selection.protected_first)[:, None, :, None]
        count = counted.sum(2, keepdim=True).clamp_min(1)
        mean = (raw * counted).sum(2, keepdim=True) / count
        ahead = rotation.mean_matrix(view.seen, self.future, raw.shape[-1])[:, None]  # [batch, 1, head_dim, head_dim]
        centred = (raw - mean) * counted
        mean = torch.matmul(ahead, mean.transpose(-1, -2)).squeeze(-1)
        if not self.covariance:
            return mean, None
        covariance = torch.matmul(centred.transpose(-1, -2), centred) / count
        return mean, ahead @ covariance @ ahead.transpose(-1, -2)

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        own = {"future": self.future, "covariance": self.covariance, "value_norm": self.value_norm}
        return {**super().describe(), **own, "epsilon": self.epsilon}
