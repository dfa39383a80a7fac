"""How a layer's and the model's budget is divided; apart from scoring, so that any policy can use any division.

Over layers: a pyramid (PyramidKV, arXiv 2406.02069), whose layers keep linearly fewer tokens the higher they are. Over
the heads of a layer: by joint competition (Ada-KV, arXiv 2407.11550), with a share that every head is sure of. Both
leave the total as it is: layers x heads x budget. Tokens that are certain to stay (protected, or scored +inf by the
policy, as an observation window is) are outside the division: every layer and head keeps them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.errors import AttachError


def pyramid_budgets(
    budget: int,
    certain: Int[Tensor, " batch"],
    seen: Int[Tensor, " batch"],
    layer: int,
    depth: int | None,
    steepness: float,
) -> Int[Tensor, " batch"]:
    """Slots per head of one layer, for each sequence.

    The lowest layer would get ``2 - 1 / steepness`` times the mean, the highest ``1 / steepness`` times; where the
    lowest would get more than there are tokens, both ends move inwards. Layers l from below and l from above have
    twice the budget together, so rounding loses nothing.

    Args:
        budget: Slots per head, mean over layers.
        certain: Tokens of each sequence that every layer keeps.
        seen: Tokens of each sequence so far.
        layer: Index of the layer.
        depth: Layers of the model.
        steepness: The paper's beta.

    Raises:
        AttachError: The number of layers is not known.
    """
    if depth is None:
        raise AttachError(
            "layer_allocation='pyramid' needs the number of layers, found a Memory that was not told; attach() tells "
            "it, or make it with Memory(policy, depth=LAYERS)."
        )
    if depth == 1:
        return torch.full_like(seen, budget)
    shared = (budget - certain).clamp_min(0).float()
    most = (seen - certain).clamp_min(0).float()
    top = torch.minimum(2 * shared - shared / steepness, most)
    top = torch.maximum(top, shared)  # fewer tokens than the budget: nothing to divide
    from_below = min(layer, depth - 1 - layer)
    share = (top - (top - (2 * shared - top)) * from_below / (depth - 1)).round()
    return certain + (share if layer == from_below else 2 * shared - share).long()


def adaptive_kept(
    scores: Float[Tensor, "batch kv_heads slots"],
    valid: Bool[Tensor, "batch kv_heads slots"],
    budgets: Int[Tensor, "batch kv_heads"],
    safeguard: float,
) -> Bool[Tensor, "batch kv_heads slots"]:
    """Who stays when the heads of a layer compete for its slots.

    Each head's budget is ``safeguard`` parts of an even share and ``1 - safeguard`` parts of what it wins where all
    tokens of the layer are ranked together. Slots that rounding leaves over, or that a head has no tokens for, go to
    the best of the tokens that are left, of whichever head.

    Args:
        scores: Larger is better; +inf is certain to stay.
        valid: Which slots hold a token.
        budgets: Slots of each head in an even division.
        safeguard: From 0 (free competition) to 1 (even division).
    """
    certain = scores.isposinf() & valid
    open_to_all = valid & ~certain
    shared = (budgets - certain.sum(-1)).clamp_min(0)  # [batch, kv_heads]
    total = shared.sum(-1)  # [batch]
    wins = ((_joint_rank(scores, open_to_all) < total[:, None, None]) & open_to_all).sum(-1)
    granted = (safeguard * shared + (1.0 - safeguard) * wins + 1e-6).floor().long()
    kept = open_to_all & (rank_by_score(scores, open_to_all) < granted[..., None])
    rest = total - kept.sum((1, 2))
    left = open_to_all & ~kept
    return certain | kept | (left & (_joint_rank(scores, left) < rest[:, None, None]))


def rank_by_score(
    scores: Float[Tensor, "batch kv_heads slots"], among: Bool[Tensor, "batch kv_heads slots"]
) -> Int[Tensor, "batch kv_heads slots"]:
    """Place of each token by score within its head, 0 the best; those ``among`` before others, newer before older."""
    newest_first = scores.masked_fill(~among, -torch.inf).flip(-1)
    order = newest_first.argsort(dim=-1, descending=True, stable=True)
    # unused slots score -inf as a hopeless token may: a second stable sort puts them behind every token
    used_first = among.flip(-1).gather(-1, order).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, used_first)
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place).flip(-1)


def _joint_rank(
    scores: Float[Tensor, "batch kv_heads slots"], among: Bool[Tensor, "batch kv_heads slots"]
) -> Int[Tensor, "batch kv_heads slots"]:
    """The same among all heads of the layer; the newest tokens of all heads lie in the last slot."""
    batch, heads, slots = scores.shape
    flat = (t.transpose(1, 2).reshape(batch, 1, slots * heads) for t in (scores, among))
    return rank_by_score(*flat).view(batch, slots, heads).transpose(1, 2)
