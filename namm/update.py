"""One update of one layer: let the policy observe the attention its tokens received and score them, say what stays.

What is not judged now passes through: sequences in mid-interval keep their tokens, and their unjudged ones stay in the
tail. Nothing is freed here; the layer replaces its store by the survivors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from namm.contents import LayerContents
from namm.observation import observe, observe_held
from namm.policies.base import Policy, Queries, State, TokenView
from namm.rules import AttentionRule
from namm.slots import Slots
from namm.told import Told


@dataclass(frozen=True)
class Case:
    """All that an update may look at."""

    layer: int
    """Index of the layer."""

    depth: int | None
    """Layers of the model, where known."""

    rule: AttentionRule
    """What the layer does beyond plain attention."""

    told: Told
    """What is known beside queries, keys and values."""

    contents: LayerContents
    """What it holds; what the policy writes into the state of heads is written in place."""


@dataclass(frozen=True)
class Survivors:
    """What an update leaves."""

    index: Int[Tensor, "batch kv_heads kept"]
    """The slots that were there, from :meth:`LayerCache.packed_index`."""

    stay: Bool[Tensor, "batch kv_heads slots"]
    """Which of these, and of the interval's behind them, stay."""

    positions: Int[Tensor, " survivors"]
    """Their absolute positions, head after head."""

    state: State
    """Their state."""

    evicted: int
    """Tokens of the judged sequences that go."""


def judged(policy: Policy | None, case: Case, complete: Bool[Tensor, " batch"], interval: int) -> Survivors:
    """What is left of a layer when some of its sequences are judged.

    Args:
        policy: Judges; None where nobody does, and only what is out of reach goes.
        case: The layer.
        complete: The sequences to judge.
        interval: Tokens that each of them has been given since its last update.
    """
    cache, slots = case.contents.cache, Slots.of(case.contents.cache, case.rule, complete, interval)
    positions, state = slots.positions(), _carried(policy, case, slots)
    before = {name: slots.pick(tensor) for name, tensor in state.items()}
    view = _view(case, slots, slots.pick(positions), dict(before))
    kept = view.valid if policy is None else _kept(policy, case, slots, view)
    # what the policy put into the view anew goes back; without a copy for what it left as it was
    for name, written in view.state.items():
        if written is not before[name]:
            state[name][slots.rows] = written
    stay = slots.survivors(kept)
    # where they lie is asked for once, not for every tensor by a mask: a GPU is waited for each time
    places = stay.flatten().nonzero().squeeze(1)
    # masks, not copies of keys: the layer moves those once, when nothing of the view is alive any more
    return Survivors(
        slots.index,
        stay,
        positions.flatten()[places],
        {name: state[name].flatten(0, 2)[places] for name in cache.state},
        int(view.valid.sum() - kept.sum()),
    )


def _carried(policy: Policy | None, case: Case, slots: Slots) -> State:
    """State of every token after the interval, kept ones before the interval's; zero in unused slots."""
    cache, observed = case.contents.cache, case.contents.take_observed()
    if observed is not None:
        # popped here and below, so that of a large state no more than one name's parts and whole exist at once
        kept_state = {name: observed.kept.pop(name)[slots.index] for name in cache.state}
        tail_state = observed.tail
    else:
        # new tokens start at zero; both parts are copies, so that observing them in place changes no fork's state
        kept_state = {name: packed[slots.index] for name, packed in cache.state.items()}
        tail_state = {
            name: packed.new_zeros(cache.batch, cache.kv_heads, slots.interval, *packed.shape[1:])
            for name, packed in cache.state.items()
        }
        if policy is not None and policy.observes_attention:
            _observe(policy, case, slots, kept_state, tail_state)
    state = {}
    for name in cache.state:
        joined = torch.cat([kept_state.pop(name), tail_state.pop(name)], dim=2)
        # unused slots were read from some other token's place: nothing of it may reach the policy
        state[name] = joined.masked_fill_(_like(~slots.valid, joined), 0.0)
    return state


def _observe(policy: Policy, case: Case, slots: Slots, kept_state: State, tail_state: State) -> None:
    """Carries the state over the interval, in place, from probabilities that were kept or are computed again."""
    contents = case.contents
    if contents.eager is None:
        observe(policy, contents.cache, contents.interval, case.rule, slots, kept_state, tail_state)
    else:
        observe_held(policy, contents.cache, contents.eager, slots, kept_state, tail_state)


def _view(case: Case, slots: Slots, positions: Int[Tensor, "rows kv_heads slots"], state: State) -> TokenView:
    """What the policy sees of the judged sequences; what few policies read is gathered when it is asked for."""
    cache, interval, pick = case.contents.cache, slots.interval, slots.pick
    # closures: keys of all slots side by side are a copy as large as the cache, and most policies need none
    seen = pick(cache.seen.to(cache.device))
    return TokenView(
        layer=case.layer,
        positions=positions,
        valid=pick(slots.valid),
        seen=seen,
        sequences=pick(case.contents.sequences.to(cache.device)),
        state=state,
        head_state={name: tensor[slots.rows] for name, tensor in case.contents.head_state.items()},
        keys=lambda: pick(torch.cat([cache.kept("keys", slots.index), cache.tail_keys[:, :, :interval]], dim=2)),
        values=lambda: pick(torch.cat([cache.kept("values", slots.index), cache.tail_values[:, :, :interval]], dim=2)),
        token_ids=lambda: case.told.tokens.at(slots.rows, positions),
        queries=lambda: Queries(
            pick(case.contents.interval.queries)[:, :, :interval],
            pick(case.contents.interval.log_sums)[:, :, :interval],
            pick(slots.tail_positions[:, 0]),
            case.contents.interval.scale,
            case.rule,
        ),
        rotation=lambda: case.told.rotation(case.layer),
        foreseen=lambda: case.told.foreseen(case.layer, slots.rows, positions, seen),
        grades=lambda name: case.told.grades(name, slots.rows, positions),
        ranked_below=lambda: case.told.rankings.of(slots.rows, seen),
        rank=lambda ranking: case.told.rankings.add(slots.rows, seen, ranking),
    )


def _kept(policy: Policy, case: Case, slots: Slots, view: TokenView) -> Bool[Tensor, "rows kv_heads slots"]:
    """What the policy and its selection rule keep of the judged sequences."""
    # scored first: what a policy remembers of heads may be written while it scores
    scores = policy.score(view)
    for name, written in view.head_state.items():
        case.contents.head_state[name][slots.rows] = written
    return policy.selection.keep(scores, view.positions, view.valid, view.seen, view.layer, case.depth)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor with trailing axes of one, to as many as the other has."""
    return tensor.reshape(*tensor.shape, *(1,) * (other.dim() - tensor.dim()))
