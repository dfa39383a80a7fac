"""A whole interval attended and observed in one pass: the probabilities that weigh the values are what a policy sees.

Otherwise logits are computed twice: fused attention keeps none, and at the update the columns of attention are made
again. Where a call brings a whole interval at once, its queries are taken some at a time instead; their probabilities
over all that they see lie in the processor's cache while they weigh the values and are folded into the policy's state.
No more of them than that ever exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from namm.cache import LayerCache
from namm.packed import PackedStore
from namm.policies.base import Places, Policy, State
from namm.rules import AttentionRule

QUERIES = 64
"""Queries of each head taken together, rounded down to what the policy can be shown apart."""
BLOCK_ELEMENTS = 1 << 20
"""Probabilities at one time, about: heads are taken together as far as that goes."""
FEWEST_ELEMENTS = {torch.float32: 1 << 16, torch.bfloat16: 1 << 14}
"""Logits of a head over the interval from which on calls of their own for each head are worth it; no other types."""


@dataclass(frozen=True)
class Observed:
    """State after the interval."""

    kept: State
    """Of kept tokens, head after head as in the store."""

    tail: State
    """Of the interval's, ``[batch, kv_heads, interval, *shape]``."""

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return sum(tensor.nbytes for part in (self.kept, self.tail) for tensor in part.values())


def takes_whole(
    policy: Policy, cache: LayerCache, query: Float[Tensor, "batch query_heads tokens head_dim"], rule: AttentionRule
) -> bool:
    """Whether these queries, which complete an interval that they began, are attended and observed in one pass.

    Args:
        policy: Observes.
        cache: Holds their tokens already.
        query: The queries of all of the interval.
        rule: What the layer does beyond plain attention.
    """
    pieces, tokens = policy.observes_in_pieces, query.shape[2]
    if not policy.observes_attention or pieces is None or tokens % pieces:
        return False
    if policy.reads_queries or (policy.observed_queries or tokens) < tokens:
        return False
    fewest = FEWEST_ELEMENTS.get(query.dtype)
    if query.device.type != "cpu" or not rule.is_plain or fewest is None:
        return False
    if not isinstance(cache.store, PackedStore) or torch.is_grad_enabled():
        return False
    group, heads = query.shape[1] // cache.kv_heads, cache.lengths.numel()
    return group * tokens * (cache.store.keys.shape[0] + heads * tokens) >= heads * fewest


def attend_and_observe(
    policy: Policy, cache: LayerCache, query: Float[Tensor, "batch query_heads tokens head_dim"], scale: float
) -> tuple[Float[Tensor, "batch query_heads tokens value_dim"], Observed]:
    """Output of a whole interval's queries, and the state of all tokens after it.

    Args:
        policy: Observes.
        cache: Holds the queries' tokens as its interval.
        query: Queries of the interval; see :func:`takes_whole`.
        scale: Factor on the logits.
    """
    store, tokens = cache.store, query.shape[2]
    assert isinstance(store, PackedStore)
    heads, group = cache.lengths.numel(), query.shape[1] // cache.kv_heads
    asked = (query * scale).reshape(heads, group, tokens, cache.head_dim)
    out = query.new_empty(heads, group, tokens, cache.value_dim)
    kept = {name: packed.clone() for name, packed in cache.state.items()}  # a fork may share what was there
    tail = {name: packed.new_zeros(heads, tokens, *packed.shape[1:]) for name, packed in cache.state.items()}
    tail_keys, tail_values = (part[:, :, :tokens].flatten(0, 1) for part in (store.tail_keys, store.tail_values))
    lengths, seen = cache.lengths.flatten().tolist(), cache.seen.repeat_interleave(cache.kv_heads)
    every = max(1, BLOCK_ELEMENTS // (group * QUERIES * (max(lengths) + tokens)))
    first, start = 0, 0
    while first < heads:
        held, last = lengths[first], first + 1
        while last < heads and last - first < every and lengths[last] == held:
            last += 1
        some, stop = slice(first, last), start + (last - first) * held

        def whole(packed: Tensor, newest: Tensor, span: slice = slice(start, stop), held: int = held) -> Tensor:
            own = packed[span].view(newest.shape[0], held, *packed.shape[1:])
            return torch.cat([own, newest], dim=1) if held else newest

        key, value = whole(store.keys, tail_keys[some]), whole(store.values, tail_values[some])
        position = whole(cache.positions, seen[some, None] - tokens + torch.arange(tokens))
        state = {name: whole(packed, tail[name][some])[:, None] for name, packed in kept.items()}
        _attend_some(policy, (asked[some], key, value), (position, held), state, out[some])
        for name, carried in state.items():
            kept[name][start:stop] = carried[:, 0, :held].flatten(0, 1)
            tail[name][some] = carried[:, 0, held:]
        first, start = last, stop
    tail = {name: part.view(cache.batch, cache.kv_heads, *part.shape[1:]) for name, part in tail.items()}
    return out.view(*query.shape[:3], cache.value_dim), Observed(kept, tail)


def _attend_some(
    policy: Policy,
    tensors: tuple[
        Float[Tensor, "heads group tokens head_dim"],
        Float[Tensor, "heads slots head_dim"],
        Float[Tensor, "heads slots value_dim"],
    ],
    places: tuple[Tensor, int],
    state: State,
    out: Float[Tensor, "heads group tokens value_dim"],
) -> None:
    """Some heads that hold equally many tokens; what is found goes into ``state`` and ``out``."""
    asked, key, value = tensors
    positions, held = places
    heads, group, tokens, _ = asked.shape
    pieces = policy.observes_in_pieces or 1
    step = max(pieces, QUERIES // pieces * pieces)
    keys, asking = key.transpose(1, 2), positions[:, held:]
    before, begun = torch.full((heads, 1), held), asking[:, 0]
    ones = torch.ones(1, 1, group, dtype=key.dtype)  # not 1 / group, which half precision rounds
    for first in range(0, tokens, step):
        last = min(first + step, tokens)
        many, slots = last - first, held + last
        # a query's heads beside each other, so that their sum is one small product
        query = asked[:, :, first:last].transpose(1, 2).reshape(heads, many * group, -1)
        logits = torch.bmm(query, keys[:, :, :slots]).view(heads, many, group, slots)
        newer = torch.ones(many, many, dtype=torch.bool).triu(1)[:, None]
        logits[..., held + first :].masked_fill_(newer, float("-inf"))
        chances = logits.softmax(-1)
        found = torch.bmm(chances.view(heads, many * group, slots), value[:, :slots])
        out[:, :, first:last] = found.view(heads, many, group, -1).transpose(1, 2)
        total = torch.bmm(ones.expand(heads * many, -1, -1), chances.view(heads * many, group, slots))
        columns = (total.view(heads, many, slots).transpose(1, 2).float() / group)[:, None]
        own = {name: carried[:, :, :slots] for name, carried in state.items()}
        where = Places(positions[:, None, :slots], asking[:, first:last], before, begun)
        for name, carried in policy.observe(columns, own, where).items():
            state[name][:, :, :slots] = carried
