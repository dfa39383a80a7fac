"""Which heads look far back, without training: DuoAttention's division (arXiv 2410.10819) from a model's mean states.

DuoAttention keeps everything in *retrieval* heads and only the first and newest tokens in *streaming* heads; which are
which, it learns by gradient. NVIDIA's kvpress has a quick stand-in that needs none, and this is the same measure: a
head's mean query and mean key, both without positions, are set to each of some positions, and what counts is how early
the attention of the last one has gathered. It is a property of the head alone, as DuoAttention's gates are. The result
divides a budget: ``make_policy("sink_window", head_budgets=divided_by_heads(..))``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.huggingface.attach import attach
from namm.errors import ConfigError, DataError
from namm.policies import Policy, Selection, TokenView
from namm.rotation import Rotation

INTERVAL = 512
"""Tokens between two looks at a text; it changes nothing."""


class MeanStates(Policy):
    """Keeps everything and averages queries and keys without their positions, sequence by sequence."""

    name = "mean_states"
    reads_queries = True
    reads_rotation = True

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        super().__init__(Selection(interval=INTERVAL))
        self.sums: dict[tuple[int, int], tuple[Tensor, Tensor, int]] = {}
        self.layers: dict[int, tuple[float, Rotation]] = {}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Adds the interval's queries and keys; no token is judged."""
        asked, rotation = view.queries(), view.rotation()
        count = asked.positions.shape[1]
        queries = rotation.turned(asked.states.float(), -asked.positions[:, None]).sum(2)
        keys = rotation.turned(view.keys()[:, :, -count:].float(), -asked.positions[:, None]).sum(2)
        self.layers[view.layer] = (asked.scale, rotation)
        for row, sequence in enumerate(view.sequences.tolist()):
            place = (view.layer, sequence)
            before = self.sums.get(place, (torch.zeros_like(queries[row]), torch.zeros_like(keys[row]), 0))
            self.sums[place] = (before[0] + queries[row], before[1] + keys[row], before[2] + count)
        return view.positions.float() * 0.0


@torch.inference_mode()
def retrieval_scores(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], length: int = 500
) -> Float[Tensor, "layers kv_heads"]:
    """How far back each head looks, from 0 (the newest token alone) to 1 (the oldest alone); a half looks everywhere.

    Args:
        model: Not attached.
        texts: Token ids of ordinary texts, read one by one.
        length: Positions over which attention is spread.

    Raises:
        DataError: There is no text.
    """
    if not texts or not all(texts):
        raise DataError(f"Expected texts of at least one token each, found lengths {[len(text) for text in texts]}.")
    total = torch.zeros(())
    for text in texts:
        states = MeanStates()
        with attach(model, states) as memory:
            model(input_ids=torch.tensor([list(text)], device=model.device), use_cache=True)
            memory.judge()
        total = total + torch.stack([_area(states, layer, length) for layer in sorted(states.layers)])
    return total / len(texts)


def _area(states: MeanStates, layer: int, length: int) -> Float[Tensor, " kv_heads"]:
    """Area under the gathered attention of the last position, mean over the group."""
    (queries, keys, count), (scale, rotation) = states.sums[layer, 0], states.layers[layer]
    query, key = queries / count, keys / count  # [query_heads, head_dim], [kv_heads, head_dim]
    places = torch.arange(length, device=key.device)
    keys = rotation.turned(key[:, None].expand(-1, length, -1), places)
    query = rotation.turned(query, places[-1:]).unflatten(0, (key.shape[0], -1))
    weights = (torch.einsum("kgd,knd->kgn", query, keys) * scale).softmax(-1)
    return weights.cumsum(-1).mean(-1).mean(1).cpu()


def divided_by_heads(
    scores: Float[Tensor, "layers kv_heads"], budget: int, tokens: int, sinks: int = 4, recent: int = 64
) -> tuple[tuple[int, ...], ...]:
    """A budget divided as DuoAttention does: everything for the best retrieval heads, sinks and newest for the others.

    Args:
        scores: Of :func:`retrieval_scores`.
        budget: Slots per KV head, mean over layers and heads.
        tokens: Length of the text. What comes behind it is no longer held whole.
        sinks: Oldest tokens that a streaming head keeps.
        recent: Newest tokens that it keeps.

    Returns:
        ``head_budgets`` for the policy ``sink_window``. As many heads as the budget pays for get all tokens, in the
        order of their scores; what is left over goes to the next one.

    Raises:
        ConfigError: The budget does not pay for streaming heads alone.
    """
    least = min(sinks + recent, tokens)
    if budget < least:
        raise ConfigError(
            f"A streaming head needs {least} slots ({sinks} sinks, {recent} newest), found a budget of {budget}; "
            "raise it or keep fewer newest tokens."
        )
    left = (budget - least) * scores.numel()
    sizes = torch.full((scores.numel(),), least, dtype=torch.long)
    for head in scores.flatten().argsort(descending=True, stable=True).tolist():
        more = min(left, tokens - least)
        sizes[head] += more
        left -= more
    found: Int[Tensor, "layers kv_heads"] = sizes.view_as(scores)
    return tuple(tuple(layer) for layer in found.tolist())
