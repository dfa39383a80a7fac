"""Positions within the cache: sinks move up behind the tokens that were evicted between them and the window.

StreamingLLM (arXiv 2309.17453, section 3.2) numbers the tokens in its cache anew at every step, so that no distance is
larger than the cache. Under rotary positions attention depends on distances alone, and of a cache of sinks and a window
without gaps the sinks are the only tokens whose distance from the others is not what the cache would count. So their
keys alone are turned forward, at every update, by as many positions as are missing behind them; the window's keys and
the model's own positions stay. Each turn begins with the key as the model made it: rounding does not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from namm.cache import LayerCache
from namm.errors import AttachError
from namm.rotation import Rotation

ORIGINALS = "sink_keys"
"""Name, in a layer's per-head state, of the sinks' keys as the model made them."""


class _Sinks(NamedTuple):
    """The sinks that a layer keeps, all on the CPU."""

    batch: Int[Tensor, " sinks"]
    head: Int[Tensor, " sinks"]
    position: Int[Tensor, " sinks"]
    """In the text."""
    slot: Int[Tensor, " sinks"]
    """Among the head's kept tokens."""


def check_renumbered(rotations: Sequence[Rotation]) -> None:
    """Checks that there is something to turn.

    Raises:
        AttachError: No layer encodes positions by rotation.
    """
    if not any(rotation.width for rotation in rotations):
        raise AttachError(
            "renumber=True turns the sinks' keys to positions within the cache; no layer of this model encodes "
            "positions by rotation (they may be learned and added to the input, and cannot be taken out of a key "
            "again). Use sink_window without it, or a model with rotary positions."
        )


def renumber_sinks(
    cache: LayerCache,
    head_state: dict[str, Tensor],
    rotation: Rotation,
    count: int,
    complete: Bool[Tensor, " batch"],
    interval: int,
) -> None:
    """Turns the sinks' keys to where the cache has them, after an update.

    Args:
        cache: Of the layer, its store just replaced, so that nobody shares its keys.
        head_state: What the layer remembers of heads; the sinks' keys as they were made are put there.
        rotation: How the layer encodes positions.
        count: Tokens that are sinks.
        complete: The sequences that were judged.
        interval: Tokens that each of them had been given since its update before.
    """
    sinks = _kept_sinks(cache, count)
    if not rotation.width or not sinks.batch.numel():
        return
    end = (cache.seen - cache.tail_lengths)[sinks.batch]  # the kept tokens' numbers, without gaps, end before it
    turn = end - cache.lengths[sinks.batch, sinks.head] + sinks.slot - sinks.position
    keys, index = cache.store.writable_keys(sinks.batch, sinks.head, sinks.slot)
    if ORIGINALS not in head_state:
        head_state[ORIGINALS] = keys.new_zeros(cache.batch, cache.kv_heads, count, cache.head_dim)
    originals = head_state[ORIGINALS]
    fresh = complete[sinks.batch] & (sinks.position >= end - interval)
    place = tuple(indices.to(cache.device) for indices in sinks[:3])
    new = fresh.to(cache.device)
    originals[tuple(indices[new] for indices in place)] = keys[index[new]]
    made = originals[place]
    exact = made.to(torch.promote_types(made.dtype, torch.float32))
    keys[index] = rotation.turned(exact, turn.to(cache.device)).to(keys.dtype)


def _kept_sinks(cache: LayerCache, count: int) -> _Sinks:
    """Tokens among the first ``count`` of their sequence: the oldest a head keeps, where it has not lost them."""
    batch, head, slot = (torch.arange(count) < cache.lengths[..., None]).nonzero(as_tuple=True)
    packed = cache.offsets()[batch, head] + slot
    position = cache.positions[packed.to(cache.device)].cpu().long()
    real = position < count  # a layer of bounded reach lets sinks go
    return _Sinks(batch[real], head[real], position[real], slot[real])
