"""Leverage scores: keys that the others do not explain (Compactor, arXiv 2507.08143, section 3).

A key's statistical leverage, ``k . (K^T K)^-1 . k`` over the centred keys of its head without their positions, is large
where few other keys lie in its direction. As in the paper, keys are first projected by a random Gaussian matrix; the
matrix follows from the seed and the layer, so that it is the same in every batch. Scores are z-scores over the layer.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Policy, Selection, TokenView

RIDGE = 1e-2
"""Added to the diagonal of ``K^T K``, which has not full rank where keys are few."""


class Leverage(Policy):
    """Approximate leverage, in standard deviations above the layer's mean."""

    name = "leverage"
    reads_rotation = True

    def __init__(self, selection: Selection, sketch: int = 48, seed: int = 0) -> None:
        """A sketch of the keys.

        Args:
            selection: The shared selection rule.
            sketch: Numbers that each key is projected to.
            seed: Of the projection.

        Raises:
            ConfigError: A sketch of no numbers.
        """
        super().__init__(selection)
        check_sketch(sketch)
        self.sketch, self.seed = sketch, seed

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """z-scored leverage of every token."""
        return leverage(view, view.valid, self.sketch, self.seed)

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "sketch": self.sketch, "seed": self.seed}


def check_sketch(sketch: int) -> None:
    """Raises ConfigError for a projection to nothing."""
    if sketch < 1:
        raise ConfigError(f"Keys are projected to 1 number or more, found sketch={sketch}; the paper has 48.")


def leverage(
    view: TokenView, judged: Bool[Tensor, "batch kv_heads slots"], sketch: int, seed: int
) -> Float[Tensor, "batch kv_heads slots"]:
    """z-scored approximate leverage of some tokens among each other; 0 for the others.

    Args:
        view: What the layer holds.
        judged: The tokens.
        sketch: Numbers that each key is projected to.
        seed: Of the projection.
    """
    keys = view.rotation().turned(view.keys().float(), -view.positions)
    heads, width = keys.shape[1], keys.shape[3]
    draw = torch.Generator().manual_seed(seed + view.layer)
    projection = torch.randn(1, heads, width, sketch, generator=draw).to(keys.device) / math.sqrt(sketch)
    held = judged[..., None]
    centred = (keys - (keys * held).sum(2, keepdim=True) / held.sum(2, keepdim=True).clamp_min(1)) * held
    # fp64: with fewer keys than numbers the inverse hangs on the ridge alone, which fp32 loses beside large keys
    sketched = torch.matmul(centred, projection).double()
    gram = sketched.transpose(-1, -2) @ sketched + RIDGE * torch.eye(sketch, dtype=torch.float64, device=keys.device)
    solved = torch.cholesky_solve(sketched.transpose(-1, -2), torch.linalg.cholesky(gram))
    return z_scored((sketched * solved.transpose(-1, -2)).sum(-1).clamp_min(0.0).float(), judged)


def z_scored(
    scores: Float[Tensor, "batch kv_heads slots"], judged: Bool[Tensor, "batch kv_heads slots"]
) -> Float[Tensor, "batch kv_heads slots"]:
    """In standard deviations above the mean of a sequence's judged tokens, all heads together; 0 for the others."""
    count = judged.sum((1, 2), keepdim=True)
    mean = (scores * judged).sum((1, 2), keepdim=True) / count.clamp_min(1)
    apart = (scores - mean) * judged
    deviation = (apart.square().sum((1, 2), keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return apart / deviation.clamp_min(1e-6)
