"""One update of one layer: recompute the attention its tokens received, let the policy score them, free the rest.

Attention columns exist only for one block of tokens at a time and are folded into the policy's state at once, so
the extra memory is one block whatever the number of heads, queries and tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.attention import parts
from namm.policies.base import Places, Queries, State, TokenView
from namm.renumbering import renumber_sinks

if TYPE_CHECKING:
    from namm.layer import LayerMemory


def update_layer(layer: LayerMemory, complete: Bool[Tensor, " batch"], interval: int) -> None:
    """Judges the tokens of the sequences that have completed an interval and keeps the survivors.

    Sequences that have not are left as they are: their kept tokens move to the new store unjudged.

    Args:
        layer: What the layer holds.
        complete: The sequences to judge.
        interval: Tokens that each of them has been given since its last update.
    """
    cache = layer.cache
    everyone = bool(complete.all())
    rows = complete.nonzero().squeeze(1).to(cache.device)
    index, in_kept = cache.packed_index()
    kept_positions, tail_positions, valid = _places(layer, index, in_kept, interval)
    positions = torch.cat([kept_positions, tail_positions], dim=2).masked_fill_(~valid, -1)

    kept_state = {name: packed[index] for name, packed in cache.state.items()}
    tail_state = {
        name: packed.new_zeros(cache.batch, cache.kv_heads, interval, *packed.shape[1:])
        for name, packed in cache.state.items()
    }
    if layer.policy.observes_attention and not layer.only_releases:
        observe = _observe if layer.eager is None else _observe_rows
        observe(layer, rows, index, kept_state, tail_state, kept_positions, tail_positions)
    state = {}
    for name in cache.state:
        joined = torch.cat([kept_state.pop(name), tail_state.pop(name)], dim=2)
        state[name] = joined.masked_fill_(_like(~valid, joined), 0.0)

    carried = {name: tensor if everyone else tensor[rows] for name, tensor in state.items()}
    view = _view(layer, rows, index, positions, valid, tail_positions, carried)
    kept = view.valid if layer.only_releases else _judged(layer, rows, view)
    for name, written in view.state.items():
        if written is not carried[name]:
            state[name][rows] = written
    if everyone:
        survivors = kept
    else:
        survivors = torch.cat([in_kept, torch.zeros_like(tail_positions, dtype=torch.bool)], dim=2)
        survivors[rows] = kept

    layer.evicted += int(view.valid.sum()) - int(kept.sum())
    cache.replace(
        index,
        survivors,
        positions[survivors],
        {name: tensor[survivors] for name, tensor in state.items()},
        complete,
    )
    if layer.policy.renumbers:
        renumber_sinks(layer, complete, interval)


def _places(
    layer: LayerMemory,
    index: Int[Tensor, "batch kv_heads kept"],
    in_kept: Bool[Tensor, "batch kv_heads kept"],
    interval: int,
) -> tuple[
    Int[Tensor, "batch kv_heads kept"], Int[Tensor, "batch kv_heads interval"], Bool[Tensor, "batch kv_heads slots"]
]:
    """Positions of kept tokens and of the interval's, and which of all these are tokens that can still be seen."""
    cache = layer.cache
    kept_positions = cache.positions[index].long()
    tail_start = (cache.seen - cache.tail_lengths).to(cache.device)[:, None, None]
    tail_positions = (tail_start + torch.arange(interval, device=cache.device)).expand(-1, cache.kv_heads, -1)
    valid = torch.cat([in_kept, torch.ones_like(tail_positions, dtype=torch.bool)], dim=2)
    if layer.rule.local is not None:  # what no later token can see is let go, whatever the policy says
        seen = cache.seen.to(cache.device)[:, None, None]
        valid &= layer.rule.local.visible(seen, torch.cat([kept_positions, tail_positions], dim=2))
    return kept_positions, tail_positions, valid


def _view(
    layer: LayerMemory,
    rows: Int[Tensor, " rows"],
    index: Int[Tensor, "batch kv_heads kept"],
    positions: Int[Tensor, "batch kv_heads slots"],
    valid: Bool[Tensor, "batch kv_heads slots"],
    tail_positions: Int[Tensor, "batch kv_heads interval"],
    carried: State,
) -> TokenView:
    """What the policy sees of the judged sequences; what few policies read is gathered when it is asked for."""
    cache, interval = layer.cache, tail_positions.shape[2]
    everyone = rows.shape[0] == cache.batch

    def pick(tensor: Tensor) -> Tensor:
        return tensor if everyone else tensor[rows]

    view = TokenView(
        layer=layer.index,
        positions=pick(positions),
        valid=pick(valid),
        seen=pick(cache.seen.to(cache.device)),
        sequences=pick(layer.sequences.to(cache.device)),
        state=dict(carried),
        head_state={name: tensor[rows] for name, tensor in layer.head_state.items()},
        keys=lambda: pick(torch.cat([cache.kept("keys", index), cache.tail_keys[:, :, :interval]], dim=2)),
        values=lambda: pick(torch.cat([cache.kept("values", index), cache.tail_values[:, :, :interval]], dim=2)),
        token_ids=lambda: layer.told.tokens.at(rows, view.positions),
        queries=lambda: Queries(
            pick(layer.queries)[:, :, :interval],
            pick(layer.log_sums)[:, :, :interval],
            pick(tail_positions[:, 0]),
            layer.scale,
            layer.rule,
        ),
        rotation=lambda: layer.told.rotation(layer.index),
        foreseen=lambda: layer.told.foreseen(layer.index, rows, view.positions, view.seen),
    )
    return view


def _judged(layer: LayerMemory, rows: Int[Tensor, " rows"], view: TokenView) -> Bool[Tensor, "rows kv_heads slots"]:
    """What the policy and its selection rule keep of the judged sequences."""
    scores = layer.policy.score(view)
    for name, written in view.head_state.items():
        layer.head_state[name][rows] = written
    return layer.policy.selection.keep(scores, view.positions, view.valid, view.seen, view.layer, layer.depth)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor with trailing axes of one, to as many as the other has."""
    return tensor.reshape(*tensor.shape, *(1,) * (other.dim() - tensor.dim()))


def _observe(
    layer: LayerMemory,
    rows: Int[Tensor, " rows"],
    index: Int[Tensor, "batch kv_heads slots"],
    kept_state: State,
    tail_state: State,
    kept_positions: Int[Tensor, "batch kv_heads slots"],
    tail_positions: Int[Tensor, "batch kv_heads interval"],
) -> None:
    """Carries the state of every token of ``rows`` over the interval, in place, block by block."""
    cache, interval = layer.cache, tail_positions.shape[2]
    everyone = rows.shape[0] == cache.batch
    # the first query that the policy wants to see
    first = interval - min(interval, layer.policy.observed_queries or interval)
    heads = (rows.shape[0], cache.kv_heads, layer.group * (interval - first))

    def pick(tensor: Tensor) -> Tensor:
        return tensor if everyone else tensor[rows]

    query = pick(layer.queries)[:, :, first:interval].reshape(*heads, cache.head_dim)
    log_sum = pick(layer.log_sums)[:, :, first:interval].reshape(heads)
    askers, before_interval = pick(tail_positions[:, 0, first:]), pick(cache.lengths.to(cache.device))
    begun = pick(tail_positions[:, 0, 0])
    block = max(16, parts.BLOCK_ELEMENTS // max(1, heads[0] * heads[1] * heads[2]))

    def fold(
        key: Float[Tensor, "rows kv_heads block head_dim"],
        state: State,
        positions: Int[Tensor, "batch kv_heads slots"],
        span: slice,
        causal_from: int | None,
    ) -> None:
        rule, token = layer.rule, pick(positions[:, :, span])
        columns = parts.attention_columns(key, query, log_sum, layer.group, layer.scale, causal_from, rule.softcap)
        if rule.local is not None:
            columns = columns.masked_fill(~rule.local.visible(askers[:, None, None], token[..., None]), 0.0)
        places = Places(token, askers, before_interval, begun)
        before = {name: pick(tensor[:, :, span]) for name, tensor in state.items()}
        for name, tensor in layer.policy.observe(columns, before, places).items():
            if everyone:
                state[name][:, :, span] = tensor
            else:
                state[name][rows, :, span] = tensor

    for start in range(0, index.shape[2], block):
        span = slice(start, min(start + block, index.shape[2]))
        fold(cache.kept("keys", index, span, None if everyone else rows), kept_state, kept_positions, span, None)
    for start in range(0, interval, block):
        span = slice(start, min(start + block, interval))
        fold(pick(cache.tail_keys)[:, :, span], tail_state, tail_positions, span, span.start - first)


def _observe_rows(
    layer: LayerMemory,
    rows: Int[Tensor, " rows"],
    index: Int[Tensor, "batch kv_heads slots"],
    kept_state: State,
    tail_state: State,
    kept_positions: Int[Tensor, "batch kv_heads slots"],
    tail_positions: Int[Tensor, "batch kv_heads interval"],
) -> None:
    """The same from probabilities that the forward pass kept, sequence by sequence."""
    assert layer.eager is not None
    for row in rows.tolist():
        columns = layer.eager.take_columns(row).float()
        held = int(layer.cache.lengths[row, 0])
        block = max(16, parts.BLOCK_ELEMENTS // (columns.shape[0] * columns.shape[2]))
        # a sequence that keeps fewer than another is filled up before its oldest token
        unused = index.shape[2] - held
        for state, mine, positions, first in (
            (kept_state, columns[:, :held], kept_positions, unused),
            (tail_state, columns[:, held:], tail_positions, 0),
        ):
            own = {name: tensor[row, :, first:] for name, tensor in state.items()}
            askers, before_interval = tail_positions[row, :1], layer.cache.lengths[row, None].to(mine.device)
            for start in range(0, mine.shape[1], block):
                some = slice(start, start + block)
                before = {name: tensor[None, :, some] for name, tensor in own.items()}
                places = Places(positions[row, None, :, first:][:, :, some], askers, before_interval, askers[:, 0])
                for name, tensor in layer.policy.observe(mine[None, :, some], before, places).items():
                    own[name][:, some] = tensor[0]
