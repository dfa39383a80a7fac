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

from namm.kernels import library
from namm.kernels.blocks import BLOCK_ELEMENTS, attend_in_blocks, join_parts
from namm.rules import capped

__all__ = ["BLOCK_ELEMENTS", "additive", "attend_part", "attention_columns", "join_parts"]


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
        attended = library.attend(query, key, value, scale, causal) if mask is None and softcap is None else None
        if attended is not None:
            return attended
        if causal:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
        out, log_sum = attend_in_blocks(query, key, value, scale, mask, softcap)
    if mask is not None and mask.dtype == torch.bool:
        log_sum = log_sum.masked_fill(~mask.any(-1), float("-inf"))
    return out, log_sum


def additive(mask: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """What is added to the logits in place of a mask: 0 where a query may look, else -inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


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
