"""Attention of a layer whose tokens look back over a bounded stretch: every pair of positions decides for itself.

Used only once some token is out of some other's reach; until then such a layer is like any other.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.attention.parts import attend_part
from namm.cache import LayerCache
from namm.rules import AttentionRule

MASK_ELEMENTS = 1 << 22
"""Pairs of positions compared at once."""


def within_reach(rule: AttentionRule, cache: LayerCache) -> bool:
    """Whether every token held still sees all that is held, the newest ones included."""
    local = rule.local
    if local is None or not cache.batch:
        return True
    return int(cache.seen.max()) <= local.width


def attend_local(
    cache: LayerCache,
    folded: Float[Tensor, "batch kv_heads group_queries head_dim"],
    starts: Int[Tensor, " batch"],
    group: int,
    scale: float,
    rule: AttentionRule,
) -> tuple[Float[Tensor, "batch kv_heads group_queries value_dim"], Float[Tensor, "batch kv_heads group_queries"]]:
    """Attention of new tokens, which the cache's tail holds already, over all that each of them can reach.

    Args:
        cache: Kept tokens and the tail.
        folded: The new queries, those of a group's heads behind each other.
        starts: Tokens of the interval before these.
        group: Query heads a KV head.
        scale: Factor on the logits.
        rule: With a bounded reach.
    """
    local = rule.local
    assert local is not None
    tokens = folded.shape[2] // group
    tail_slots = int(starts.max()) + tokens
    tail_start = (cache.seen - cache.tail_lengths).to(cache.device)
    asker = (tail_start + starts.to(cache.device))[:, None] + torch.arange(tokens, device=cache.device)
    tail = (tail_start[:, None] + torch.arange(tail_slots, device=cache.device))[:, None].expand(-1, cache.kv_heads, -1)
    index, in_kept = cache.packed_index()
    kept = cache.positions[index].long().masked_fill(~in_kept, torch.iinfo(torch.int32).max)  # later than any asker
    token = torch.cat([kept, tail], dim=2)  # [batch, kv_heads, slots]
    key = torch.cat([cache.kept("keys", index), cache.tail_keys[:, :, :tail_slots]], dim=2)
    value = torch.cat([cache.kept("values", index), cache.tail_values[:, :, :tail_slots]], dim=2)
    query = folded.unflatten(2, (group, tokens))
    block = max(1, MASK_ELEMENTS // max(1, token.numel() * group))
    parts = []
    for start in range(0, tokens, block):
        some = asker[:, None, start : start + block, None]
        mask = (token[:, :, None] <= some) & local.visible(some, token[:, :, None])
        asked = query[:, :, :, start : start + block]
        out, log_sum = attend_part(
            asked.flatten(2, 3), key, value, scale, mask.repeat(1, 1, group, 1), softcap=rule.softcap
        )
        parts.append((out.unflatten(2, asked.shape[2:4]), log_sum.unflatten(2, asked.shape[2:4])))
    out, log_sum = (torch.cat(part, dim=3) for part in zip(*parts, strict=True))
    return out.flatten(2, 3), log_sum.flatten(2, 3)
