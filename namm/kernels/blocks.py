"""Attention with its log-sum-exp by ordinary products, on any device: the definition of every kernel that gives both.

Two sets of tokens attended apart join exactly (:func:`join_parts`), so that what is held at once is one block of logits
however many tokens there are.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.rules import capped

BLOCK_ELEMENTS = 1 << 21
"""Logits held at once, here and when columns are recomputed (8 MiB in fp32)."""


def attend_in_blocks(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads slots head_dim"],
    value: Float[Tensor, "batch heads slots value_dim"],
    scale: float,
    mask: Bool[Tensor, "#batch #heads #queries slots"] | Float[Tensor, "#batch #heads #queries slots"] | None,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "batch heads queries value_dim"], Float[Tensor, "batch heads queries"]]:
    """What :func:`namm.attention.parts.attend_part` gives, in memory that does not grow with the number of slots."""
    batch, heads, queries, _ = query.shape
    block = max(16, BLOCK_ELEMENTS // max(1, batch * heads * queries))
    out: Tensor | None = None
    log_sum = torch.empty(0)
    for start in range(0, key.shape[2], block):
        stop = min(start + block, key.shape[2])
        logits = torch.matmul(query, key[:, :, start:stop].transpose(-1, -2)).float() * scale
        logits = capped(logits, softcap)
        if mask is not None and mask.dtype == torch.bool:
            logits.masked_fill_(~mask[..., start:stop], float("-inf"))
        elif mask is not None:
            logits += mask[..., start:stop]
        part_sum = logits.logsumexp(-1)
        weight = (logits - part_sum.clamp_min(torch.finfo(torch.float32).min).unsqueeze(-1)).exp_()
        part = torch.matmul(weight.to(value.dtype), value[:, :, start:stop])
        out, log_sum = (part, part_sum) if out is None else join_parts(out, log_sum, part, part_sum)
    assert out is not None  # at least one slot
    return out, log_sum


def join_parts(
    out: Float[Tensor, "*rows head_dim"],
    log_sum: Float[Tensor, "*rows"],
    other: Float[Tensor, "*rows head_dim"],
    other_log_sum: Float[Tensor, "*rows"],
) -> tuple[Float[Tensor, "*rows head_dim"], Float[Tensor, "*rows"]]:
    """Attention over the union of two sets of tokens, from attention over each."""
    share = torch.sigmoid(other_log_sum - log_sum).nan_to_num(0.0).unsqueeze(-1).to(out.dtype)
    return torch.lerp(out, other, share), torch.logaddexp(log_sum, other_log_sum)
