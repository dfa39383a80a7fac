"""Attention columns before they are multiplied out: enough to compute them, and much smaller."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from namm.attention import parts


@dataclass(frozen=True)
class Factors:
    """Some tokens' keys, and an interval's queries; see :func:`namm.attention.parts.attention_columns`."""

    key: Float[Tensor, "batch kv_heads slots head_dim"]
    """Keys of the tokens."""

    query: Float[Tensor, "batch kv_heads group_queries head_dim"]
    """Queries of all heads of a group, head by head."""

    log_sum: Float[Tensor, "batch kv_heads group_queries"]
    """Log-sum-exp of each query's logits over everything it saw."""

    group: int
    """Query heads a KV head."""

    scale: float
    """Factor on the logits."""

    causal_from: int | None = None
    """Index of the first token within the interval; None for tokens that every query saw."""

    softcap: float | None = None
    """Bound of the logits."""

    def columns(self) -> Float[Tensor, "batch kv_heads slots queries"]:
        """Attention that each token received from each query, averaged over the group."""
        return parts.attention_columns(
            self.key, self.query, self.log_sum, self.group, self.scale, self.causal_from, self.softcap
        )
