"""What a layer does beyond plain scaled causal attention: bounded reach, capped logits, learned sinks.

A bounded layer (a sliding window, or chunks) forgets by itself: what no later token can see is freed at the next
update, and the policy judges the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.errors import ConfigError

LARGEST_OWN_INTERVAL = 512
"""Tokens between two updates of a bounded layer whose policy never updates, at most."""


@dataclass(frozen=True)
class Local:
    """How far back a layer's tokens look."""

    width: int
    """Tokens in the window, the asking one included, or tokens of a chunk."""

    chunked: bool = False
    """A token sees its own chunk (positions that ``width`` divides equally) instead of its last ``width`` tokens."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"A window or chunk holds at least one token, found {self.width}.")

    @property
    def interval(self) -> int:
        """Tokens between two updates where the policy sets none: as many as the layer holds anyway."""
        return min(LARGEST_OWN_INTERVAL, 16 * -(-self.width // 16))

    def visible(self, asker: Int[Tensor, "*#shape"], token: Int[Tensor, "*#shape"]) -> Bool[Tensor, "*shape"]:
        """Whether tokens at one position see those at another, which is not later."""
        if self.chunked:
            return asker // self.width == token // self.width
        return asker - token < self.width

    def __str__(self) -> str:
        return f"chunks of {self.width}" if self.chunked else f"window of {self.width}"


@dataclass(frozen=True, eq=False)
class AttentionRule:
    """One layer's attention; the default is the plain one."""

    local: Local | None = None
    """Bounded reach; None sees everything that is kept."""

    softcap: float | None = None
    """Logits become ``softcap * tanh(logits / softcap)`` (Gemma 2, arXiv 2408.00118, section 2)."""

    sinks: Float[Tensor, " query_heads"] | None = None
    """A logit a head that takes part in the softmax and has no value (gpt-oss, arXiv 2508.10925, section 2.1)."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing is special."""
        return self.local is None and self.softcap is None and self.sinks is None


PLAIN = AttentionRule()


def capped(logits: Float[Tensor, "*shape"], softcap: float | None) -> Float[Tensor, "*shape"]:
    """The logits, bounded where the rule says so; in place."""
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def sink_part(
    sinks: Float[Tensor, " query_heads"], like: Float[Tensor, "batch kv_heads group_queries value_dim"], group: int
) -> tuple[Float[Tensor, "batch kv_heads group_queries value_dim"], Float[Tensor, "batch kv_heads group_queries"]]:
    """The sinks as a part of attention that can be joined with others: output zero, log-sum-exp the sink itself.

    Args:
        sinks: One logit for each query head.
        like: The output of another part, groups folded into its query axis.
        group: Query heads a KV head.
    """
    batch, kv_heads, queries, _ = like.shape
    logit = sinks.detach().to(like.device, torch.float32).view(1, kv_heads, group, 1)
    return torch.zeros_like(like), logit.expand(batch, -1, -1, queries // group).flatten(2)
