"""Attention in parts that can be joined, and attention columns recomputed block by block.

A cache that forgets per head is ragged, so attention runs over two parts: the tokens kept so far (all visible) and
the tokens of the current interval (causal). Each part returns its output and the log-sum-exp of its logits; two
parts join exactly. The log-sum-exp is then kept with the queries: at an update the probability of any token is one
matrix product and one exponential away, and no attention matrix is ever stored.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.rules import capped

BLOCK_ELEMENTS = 1 << 21
"""Logits held at once when columns are recomputed or attention runs without a fused kernel (8 MiB in fp32)."""


def attend_part(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads slots head_dim"],
    value: Float[Tensor, "batch heads slots value_dim"],
    scale: float,
    mask: Bool[Tensor, "#batch #heads #queries slots"] | Float[Tensor, "#batch #heads #queries slots"] | None = None,
    causal: bool = False,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "batch heads queries value_dim"], Float[Tensor, "batch heads queries"]]:
    """Attention over some of the tokens, and what is needed to join it with the rest.

    Args:
        query: Queries; those of one KV head's group may lie behind each other on the query axis.
        key: Keys; at least one slot.
        value: Values.
        scale: Factor on the logits.
        mask: True where a query may look. Where every query sees something, it may be given as :func:`additive`
            makes it, once for many calls.
        causal: Query i sees slots 0 to i only (as many queries as slots). Excludes ``mask``.
        softcap: Bound of the logits (:class:`namm.rules.AttentionRule`).

    Returns:
        The output normalised over these slots, and the log-sum-exp of the logits in fp32. A query that sees none
        of them has output 0 and log-sum-exp -inf.
    """
    fused = softcap is None and key.shape[3] == value.shape[3]
    if query.device.type == "cpu" and fused:
        bias = additive(mask, query.dtype) if mask is not None and mask.dtype == torch.bool else mask
        out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias, scale=scale
        )
        log_sum = log_sum.float()
    else:
        if causal:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
        out, log_sum = _attend_in_blocks(query, key, value, scale, mask, softcap)
    if mask is not None and mask.dtype == torch.bool:
        log_sum = log_sum.masked_fill(~mask.any(-1), float("-inf"))
    return out, log_sum


def additive(mask: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """What is added to the logits in place of a mask: 0 where a query may look, else -inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def _attend_in_blocks(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads slots head_dim"],
    value: Float[Tensor, "batch heads slots value_dim"],
    scale: float,
    mask: Bool[Tensor, "#batch #heads #queries slots"] | Float[Tensor, "#batch #heads #queries slots"] | None,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "batch heads queries value_dim"], Float[Tensor, "batch heads queries"]]:
    """The same on any device and for any width of values, in memory that does not grow with the number of slots."""
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


def attention_columns(
    key: Float[Tensor, "batch kv_heads slots head_dim"],
    query: Float[Tensor, "batch kv_heads group_queries head_dim"],
    log_sum: Float[Tensor, "batch kv_heads group_queries"],
    group: int,
    scale: float,
    causal_from: int | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "batch kv_heads slots queries"]:
    """Attention that some tokens received from each query of the interval, averaged over the query group.

    Args:
        key: Keys of the tokens.
        query: The interval's queries of all heads of the group, head by head.
        log_sum: Log-sum-exp of each query's logits over everything it saw.
        group: Query heads a KV head.
        scale: Factor on the logits.
        causal_from: Index of the first of these tokens within the interval, when they belong to it: a query sees
            none of the tokens after itself. None for tokens older than the interval, which every query saw.
        softcap: Bound of the logits.
    """
    if key.dtype == torch.float32 and softcap is None:
        # scale and log-sum-exp ride in the product, without passes of their own over the logits
        flat = key.flatten(0, 1), query.flatten(0, 1), log_sum.flatten(0, 1).unsqueeze(1)
        logits = torch.baddbmm(flat[2], flat[0], flat[1].transpose(1, 2), beta=-1.0, alpha=scale)
        probability = logits.exp_().unflatten(0, key.shape[:2])
    else:
        # half precision, or capped: the logits the model itself computes, the rest in fp32
        logits = torch.matmul(key, query.transpose(-1, -2)).float()
        probability = capped(logits.mul_(scale), softcap).sub_(log_sum.unsqueeze(-2)).exp_()
    columns = probability.unflatten(-1, (group, -1))
    columns = columns.squeeze(-2) if group == 1 else columns.mean(-2)
    if causal_from is not None:
        token = torch.arange(causal_from, causal_from + key.shape[2], device=key.device)
        asker = torch.arange(columns.shape[-1], device=key.device)
        columns = columns.masked_fill(asker[None, :] < token[:, None], 0.0)
    return columns
