"""A slow, obvious memory: one sequence, token by token, dense masked attention, nothing packed or cut."""

from __future__ import annotations

import torch
from torch import Tensor

from namm.policies import Places, Policy, Queries, TokenView
from namm.told import Told


def reference_attend(
    policy: Policy,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequence: int,
    depth: int = 1,
    token_ids: Tensor | None = None,
    first_call: int = 0,
    told: Told | None = None,
) -> tuple[Tensor, list[list[int]]]:
    """Output ``[query_heads, tokens, head_dim]`` and the positions each head holds at the end.

    Args:
        policy: Judges at multiples of its interval.
        layer: Told to the policy.
        query: ``[query_heads, tokens, head_dim]`` of one sequence without padding.
        key: ``[kv_heads, tokens, head_dim]``.
        value: ``[kv_heads, tokens, head_dim]``.
        sequence: Identity told to the policy.
        depth: Layers of the model.
        token_ids: ``[tokens]``.
        first_call: Tokens of the first call, after which a policy with the schedule "prompt" judges.
        told: What the memory was told; the sequence is the row of that number in it.
    """
    query_heads, tokens, width = query.shape
    kv_heads = key.shape[0]
    group = query_heads // kv_heads
    once = policy.selection.schedule == "prompt"
    interval = first_call if once else policy.selection.interval
    alive = torch.zeros(kv_heads, tokens, dtype=torch.bool)
    state = {name: torch.zeros(kv_heads, tokens, *shape) for name, shape in policy.state_shapes().items()}
    head_state = {name: torch.zeros(1, kv_heads, *shape) for name, shape in policy.head_state_shapes().items()}
    begun, before = 0, alive.sum(1)
    sums: list[Tensor] = []  # log-sum-exp of each query's logits
    rows: list[Tensor] = []  # attention of each query of the interval over all positions, averaged over the group
    out = torch.zeros_like(query)
    for now in range(tokens):
        alive[:, now] = True
        logits = torch.einsum("hgd,hnd->hgn", query[:, now].view(kv_heads, group, width), key) * width**-0.5
        weights = logits.masked_fill(~alive[:, None], -torch.inf).softmax(-1)
        out[:, now] = torch.einsum("hgn,hnd->hgd", weights, value).reshape(query_heads, width)
        rows.append(weights.mean(1))
        sums.append(logits.masked_fill(~alive[:, None], -torch.inf).logsumexp(-1).flatten())
        if interval is None or (now + 1) % interval or (once and now + 1 != interval):
            continue
        last = len(rows) if policy.observed_queries is None else min(len(rows), policy.observed_queries)
        columns = torch.stack(rows[-last:], dim=-1)  # [kv_heads, positions, queries]
        asked_sums, rows, sums = torch.stack(sums, dim=-1)[None], [], []
        queries = torch.arange(now + 1 - last, now + 1)[None]
        kept = torch.zeros_like(alive)
        for head in range(kv_heads):
            positions = alive[head].nonzero().squeeze(1)
            mine = {name: tensor[head, positions][None, None] for name, tensor in state.items()}
            places = Places(positions[None, None], queries, before[None, head : head + 1], torch.tensor([begun]))
            mine = policy.observe(columns[head, positions][None, None], mine, places)
            for name, tensor in mine.items():
                state[name][head, positions] = tensor[0, 0]
        # scored together: the random policy tells heads apart
        longest = int(alive.sum(1).max())
        padded = torch.full((kv_heads, longest), -1)
        for head in range(kv_heads):
            positions = alive[head].nonzero().squeeze(1)
            padded[head, longest - len(positions) :] = positions
        valid = padded >= 0
        index = padded.clamp_min(0)
        heads = torch.arange(kv_heads)[:, None]
        views = {}
        for name, tensor in state.items():
            gathered = tensor[heads, index]
            views[name] = torch.where(valid.view(*valid.shape, *(1,) * (gathered.dim() - 2)), gathered, 0.0)[None]
        seen = torch.tensor([now + 1])
        ids = None if token_ids is None else torch.where(padded >= 0, token_ids[index], -1)[None]
        view = TokenView(
            layer,
            padded[None],
            valid[None],
            seen,
            torch.tensor([sequence]),
            views,
            head_state,
            keys=lambda at=(heads, index): key[at][None],
            values=lambda at=(heads, index): value[at][None],
            token_ids=lambda ids=ids: ids,
            queries=lambda first=begun, last=now + 1, log_sums=asked_sums: Queries(
                query[None, :, first:last], log_sums, torch.arange(first, last)[None], width**-0.5
            ),
            rotation=lambda: told.rotation(layer),
            foreseen=lambda at=(padded[None], seen): told.foreseen(layer, torch.tensor([sequence]), *at),
            ranked_below=list,
            rank=lambda ranking: None,
            grades=lambda name, at=padded[None]: told.grades(name, torch.tensor([sequence]), at),
        )
        scores = policy.score(view)
        for name, written in view.state.items():  # what the policy wrote stays with its tokens
            for head in range(kv_heads):
                state[name][head, padded[head][valid[head]]] = written[0, head, valid[head]]
        keep = policy.selection.keep(scores, view.positions, view.valid, seen, layer, depth)[0]
        for head in range(kv_heads):
            kept[head, padded[head][keep[head]]] = True
        alive = kept
        begun, before = now + 1, alive.sum(1)
    return out, [alive[head].nonzero().squeeze(1).tolist() for head in range(kv_heads)]
