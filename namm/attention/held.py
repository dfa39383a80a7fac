"""Attention of new tokens over what a layer holds: kept tokens, all of which they see, and the interval, causally.

The interval holds the new tokens already. Parts are attended apart and joined, but where the store is padded and few
tokens come at once, one product sees everything.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.attention.parts import additive, attend_part, join_parts
from namm.cache import LayerCache
from namm.padded import PaddedStore

FEW_TOKENS = 8
"""Up to so many new tokens are attended together with their interval under a mask; more have a causal kernel."""
LARGEST_KEPT_MASK = 1 << 14
"""Numbers of a mask that is kept for the next layers, at most (64 of them: 4 MiB in fp32)."""


def attend_held(
    cache: LayerCache,
    query: Float[Tensor, "batch query_heads tokens head_dim"],
    folded: Float[Tensor, "batch kv_heads group_tokens head_dim"],
    starts: Int[Tensor, " batch"],
    first: int | None,
    scale: float,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "batch kv_heads group_tokens value_dim"], Float[Tensor, "batch kv_heads group_tokens"]]:
    """Output and log-sum-exp of the logits, groups folded into the query axis.

    Args:
        cache: Kept tokens and the interval, these queries' tokens included.
        query: The new queries.
        folded: The same, those of a group's heads behind each other.
        starts: Tokens of the interval before these.
        first: The same, where all sequences have equally many.
        scale: Factor on the logits.
        softcap: Bound of the logits.
    """
    tokens = query.shape[2]
    store = cache.store
    if isinstance(store, PaddedStore) and first is not None and tokens <= FEW_TOKENS:
        bias = _mask_of_few(tokens, first, query.shape[1] // cache.kv_heads, query.dtype, cache.device)
        return store.attend_all(folded, bias, scale, softcap)
    out, log_sum = _attend_interval(cache, query, folded, starts, first, scale, softcap)
    kept = store.attend(folded, scale, softcap)
    return (out, log_sum) if kept is None else join_parts(out, log_sum, *kept)


def _attend_interval(
    cache: LayerCache,
    query: Float[Tensor, "batch query_heads tokens head_dim"],
    folded: Float[Tensor, "batch kv_heads group_tokens head_dim"],
    starts: Int[Tensor, " batch"],
    first: int | None,
    scale: float,
    softcap: float | None,
) -> tuple[Float[Tensor, "batch kv_heads group_tokens value_dim"], Float[Tensor, "batch kv_heads group_tokens"]]:
    """Over the interval alone."""
    tokens, group = query.shape[2], query.shape[1] // cache.kv_heads
    if first is None:
        slot = torch.arange(int(starts.max()) + tokens)
        asker = starts[:, None] + torch.arange(tokens)
        mask = (slot[None, None] <= asker[:, :, None])[:, None].repeat(1, 1, group, 1).to(cache.device)
        stop = slot.shape[0]
        held = (cache.tail_keys[:, :, :stop], cache.tail_values[:, :, :stop])
        return attend_part(folded, *held, scale, mask, softcap=softcap)
    if tokens <= FEW_TOKENS:
        stop = first + tokens
        bias = None if tokens == 1 else _mask_of_few(tokens, first, group, query.dtype, cache.device)
        held = (cache.tail_keys[:, :, :stop], cache.tail_values[:, :, :stop])
        return attend_part(folded, *held, scale, bias, softcap=softcap)
    before = (cache.tail_keys[:, :, :first], cache.tail_values[:, :, :first])
    fresh = (cache.tail_keys[:, :, first : first + tokens], cache.tail_values[:, :, first : first + tokens])
    key, value = (t.repeat_interleave(group, dim=1) if group > 1 else t for t in fresh)
    out, log_sum = attend_part(query, key, value, scale, causal=True, softcap=softcap)
    out, log_sum = out.reshape(*folded.shape[:3], cache.value_dim), log_sum.reshape(folded.shape[:3])
    if first == 0:
        return out, log_sum
    return join_parts(out, log_sum, *attend_part(folded, *before, scale, softcap=softcap))


def _mask_of_few(
    tokens: int, before: int, group: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 1 group_tokens slots"]:
    """Additive mask of a few new tokens over those before them and themselves.

    Every layer asks for the same one, so small ones are kept for the next layers; what is kept is nobody's to free and
    in no report, so large ones are not.
    """
    if group * tokens * (before + tokens) > LARGEST_KEPT_MASK:
        return _causal(tokens, before, group, dtype, device)
    return _kept_causal(tokens, before, group, dtype, device)


def _causal(
    tokens: int, before: int, group: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 1 group_tokens slots"]:
    with torch.inference_mode(False):  # a later caller may want gradients through the same mask
        visible = torch.ones(tokens, before + tokens, dtype=torch.bool, device=device).tril(before)
        return additive(visible, dtype).repeat(group, 1)[None, None]


_kept_causal = lru_cache(maxsize=64)(_causal)
