"""FastV: what an early layer's last query looks at decides for all layers above (arXiv 2403.06764).

The paper drops, behind layer K = 2 of a vision-language model and once, the pictures' tokens to which the last token
paid least attention there, mean over heads; text stays. Here the same ranking decides, at every update and within the
same budget, what all layers from K on hold. Layers below, in which the paper drops nothing, judge by their own last
query, so that every layer is of one size; nothing is taken out of the computation of tokens that are still to come.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Places, Policy, Selection, State, TokenView

PICTURES = "pictures"
"""The grade that tells tokens of pictures (0) from others (+inf)."""


class FastV(Policy):
    """Attention of the last query in an early layer; what is no picture stays."""

    name = "fastv"
    observes_attention = True
    observed_queries = 1
    reads_grades = True

    def __init__(self, selection: Selection, layers: int = 2) -> None:
        """Whose attention counts.

        Args:
            selection: The shared selection rule.
            layers: Lowest layers that attend by themselves; the last of them decides for those above (the paper's K).

        Raises:
            ConfigError: None would decide.
        """
        super().__init__(selection)
        if layers < 1:
            raise ConfigError(f"FastV needs a layer that decides, found layers={layers}; give 1 or more.")
        self.layers = layers

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """One number a token: the last query's attention to it."""
        return {"attention": ()}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """The last query's attention."""
        return {"attention": columns[..., -1]}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Attention from 0 to 1, in the layer that decides; infinite for what is no picture."""
        below = view.ranked_below()
        if len(below) >= self.layers:
            ranking = below[self.layers - 1]
        else:
            ranking = self._ranking(view)
            view.rank(ranking)
        place = view.positions.clamp(0, ranking.shape[1] - 1).flatten(1)
        attention = ranking.gather(1, place).view(view.positions.shape)
        return view.grades(PICTURES) + attention

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "layers": self.layers}

    def _ranking(self, view: TokenView) -> Float[Tensor, "batch positions"]:
        """By position: the mean over the heads that hold the token; all do, unless heads have budgets of their own."""
        batch, longest = view.positions.shape[0], int(view.seen.max())
        place = torch.where(view.valid, view.positions, longest).flatten(1)
        total = place.new_zeros(batch, longest + 1, dtype=torch.float32)
        held = torch.ones_like(place, dtype=torch.float32)
        summed = total.scatter_add(1, place, view.state["attention"].flatten(1))
        return summed / total.scatter_add(1, place, held).clamp_min(1)
