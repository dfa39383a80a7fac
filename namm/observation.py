"""A policy observes the attention that tokens received in an interval, some tokens at a time.

Attention columns exist only for one block of tokens at a time and are folded into the policy's state at once, so
the extra memory is one block whatever the number of heads, queries and tokens. Where a policy has a kernel that needs
no columns, it is given what they are the product of.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from namm.attention import parts
from namm.attention.eager import EagerAttention
from namm.attention.factors import Factors
from namm.cache import LayerCache
from namm.interval import Interval
from namm.policies.base import Places, Policy, State
from namm.rules import AttentionRule
from namm.slots import Slots

SMALLEST_BLOCK = 16
"""Tokens of a block, at least: smaller products cost more to call than to compute."""


def observe(
    policy: Policy,
    cache: LayerCache,
    interval: Interval,
    rule: AttentionRule,
    slots: Slots,
    kept_state: State,
    tail_state: State,
) -> None:
    """Carries the state of every judged token over the interval, in place, from attention that is computed again."""
    tokens = slots.interval
    # the first query that the policy wants to see
    first = tokens - min(tokens, policy.observed_queries or tokens)
    group = interval.queries.shape[1] // cache.kv_heads
    heads = (slots.rows.shape[0], cache.kv_heads, group * (tokens - first))
    query = slots.pick(interval.queries)[:, :, first:tokens].reshape(*heads, cache.head_dim)
    log_sum = slots.pick(interval.log_sums)[:, :, first:tokens].reshape(heads)
    # positions of the interval are the same for every head
    askers, begun = slots.pick(slots.tail_positions[:, 0, first:]), slots.pick(slots.tail_positions[:, 0, 0])
    before_interval = slots.pick(cache.lengths.to(cache.device))
    # beyond a bounded reach pairs are masked one by one, in columns
    folds = rule.local is None and policy.folds(query, group, rule.softcap is not None)
    width = cache.head_dim if folds else heads[2]  # of what is held for each token: its key, or its column
    block = max(SMALLEST_BLOCK, parts.BLOCK_ELEMENTS // max(1, heads[0] * heads[1] * width))

    def fold(
        key: Float[Tensor, "rows kv_heads block head_dim"],
        state: State,
        positions: Int[Tensor, "batch kv_heads slots"],
        span: slice,
        causal_from: int | None,
    ) -> None:
        factors = Factors(key, query, log_sum, group, interval.scale, causal_from, rule.softcap)
        before = {name: slots.pick(tensor[:, :, span]) for name, tensor in state.items()}
        if folds:
            after = policy.fold(factors, before)
        else:
            token, columns = slots.pick(positions[:, :, span]), factors.columns()
            if rule.local is not None:  # computed for every pair, but nobody attended beyond its reach
                columns = columns.masked_fill(~rule.local.visible(askers[:, None, None], token[..., None]), 0.0)
            after = policy.observe(columns, before, Places(token, askers, before_interval, begun))
        for name, tensor in after.items():
            if slots.is_everyone:
                state[name][:, :, span] = tensor
            else:
                state[name][slots.rows, :, span] = tensor

    # kept tokens and the interval's apart: all queries saw the former, and joining the keys would copy both
    some_rows = None if slots.is_everyone else slots.rows
    for start in range(0, slots.index.shape[2], block):
        span = slice(start, min(start + block, slots.index.shape[2]))
        fold(cache.kept("keys", slots.index, span, some_rows), kept_state, slots.kept_positions, span, None)
    for start in range(0, tokens, block):
        span = slice(start, min(start + block, tokens))
        key = slots.pick(cache.tail_keys)[:, :, span]
        fold(key, tail_state, slots.tail_positions, span, span.start - first)


def observe_held(
    policy: Policy, cache: LayerCache, eager: EagerAttention, slots: Slots, kept_state: State, tail_state: State
) -> None:
    """The same from probabilities that the forward pass kept, sequence by sequence, as each was computed alone."""
    for row in slots.rows.tolist():
        columns = eager.take_columns(row).float()
        held = int(cache.lengths[row, 0])
        block = max(SMALLEST_BLOCK, parts.BLOCK_ELEMENTS // (columns.shape[0] * columns.shape[2]))
        # a sequence that keeps fewer than another is filled up before its oldest token
        unused = slots.index.shape[2] - held
        for state, mine, positions, first in (
            (kept_state, columns[:, :held], slots.kept_positions, unused),
            (tail_state, columns[:, held:], slots.tail_positions, 0),
        ):
            own = {name: tensor[row, :, first:] for name, tensor in state.items()}
            askers, before_interval = slots.tail_positions[row, :1], cache.lengths[row, None].to(mine.device)
            for start in range(0, mine.shape[1], block):
                some = slice(start, start + block)
                before = {name: tensor[None, :, some] for name, tensor in own.items()}
                places = Places(positions[row, None, :, first:][:, :, some], askers, before_interval, askers[:, 0])
                for name, tensor in policy.observe(mine[None, :, some], before, places).items():
                    own[name][:, some] = tensor[0]
