"""TOVA: what the newest query looks at, the heads of a layer together (arXiv 2401.06104).

A transformer whose cache holds n tokens is read as a recurrent net of n states, and the state that the newest query
weighs least is dropped. The weight is the mean over all heads of a layer, so that heads keep the same tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Places, Policy, State, TokenView


class TOVA(Policy):
    """Attention of the last query, mean over the layer."""

    name = "tova"
    observes_attention = True
    observed_queries = 1

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """One number a token: the last query's attention to it."""
        return {"attention": ()}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """The last query's attention."""
        return {"attention": columns[..., -1]}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Its mean over the heads that hold the token; all do, unless heads have budgets of their own."""
        batch, heads, _ = view.positions.shape
        place = torch.where(view.valid, view.positions, int(view.seen.max())).flatten(1)
        total = place.new_zeros(batch, int(view.seen.max()) + 1, dtype=torch.float32)
        weight, holders = total, total
        weight = weight.scatter_add(1, place, view.state["attention"].flatten(1))
        holders = holders.scatter_add(1, place, torch.ones_like(place, dtype=torch.float32))
        return (weight / holders.clamp_min(1)).gather(1, place).view(batch, heads, -1)
