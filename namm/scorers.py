"""Scorers: token features to one score a token, larger = keep.

Parameters arrive as a flat matrix, one row a candidate, and every batch row of features names its candidate: a
whole evolution population is scored in one call, and a single NAMM is a population of one.

BAM ("backward attention memory"): each token attends to itself and to all NEWER tokens, so that it can notice
that it has been superseded. A mask over the reversed order would need N x N memory; reversed in time it is causal
attention, which the fused kernels know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import relu, scaled_dot_product_attention

from namm.config import NAMMConfig
from namm.errors import ConfigError


class Scorer(ABC):
    """A network without state of its own: it reads its weights from a flat vector in the documented order."""

    shapes: Sequence[tuple[str, tuple[int, ...]]]
    """Names and shapes of the weights, in flat order. Matrices are [in, out], row-major."""

    @property
    def params(self) -> int:
        """Length of the flat vector."""
        return sum(torch.Size(shape).numel() for _, shape in self.shapes)

    def unpack(self, flat: Float[Tensor, "population params"]) -> dict[str, Tensor]:
        """Views of the flat vectors by name, each with a leading population axis.

        Raises:
            ConfigError: The vectors are not ``params`` long.
        """
        if flat.shape[-1] != self.params:
            raise ConfigError(
                f"Expected flat NAMM vectors of {self.params} numbers, found {flat.shape[-1]}; "
                "the config (scorer, hidden) and the vector belong to different NAMMs."
            )
        sizes = [torch.Size(shape).numel() for _, shape in self.shapes]
        parts = flat.split(sizes, dim=-1)
        return {name: part.unflatten(-1, shape) for (name, shape), part in zip(self.shapes, parts, strict=True)}

    @abstractmethod
    def __call__(
        self,
        flat: Float[Tensor, "population params"],
        features: Float[Tensor, "batch kv_heads slots features"],
        valid: Bool[Tensor, "batch kv_heads slots"],
        candidate: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch kv_heads slots"]:
        """Scores of each token, in cache order (oldest first); invalid slots may hold anything finite.

        Args:
            flat: Weights of each candidate.
            features: Token features, oldest first; heads with fewer tokens have unused slots BEFORE their oldest.
            valid: Which slots hold a token.
            candidate: The row of ``flat`` that judges each batch row.
        """


class BAM(Scorer):
    """Backward attention, then an element-wise residual and a linear head (arXiv 2410.13166, section 3.2)."""

    def __init__(self, features: int, hidden: int) -> None:
        self.features, self.hidden = features, hidden
        self.shapes = (
            ("qkv_weight", (features, 3 * hidden)),
            ("qkv_bias", (3 * hidden,)),
            ("out_weight", (hidden, 2 * features)),
            ("out_bias", (2 * features,)),
            ("score_weight", (features,)),
            ("score_bias", (1,)),
        )

    def __call__(
        self,
        flat: Float[Tensor, "population params"],
        features: Float[Tensor, "batch kv_heads slots features"],
        valid: Bool[Tensor, "batch kv_heads slots"],
        candidate: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch kv_heads slots"]:
        """Scores; see :class:`Scorer`."""
        weights = self.unpack(flat)
        batch, heads, slots, width = features.shape
        # reversed in time "itself and newer" reads "itself and earlier": causal attention. Unused slots lie before the
        # oldest token, so after it there: plain causal attention never reaches them
        rows = features.flip(2).reshape(batch, heads * slots, width)
        projected = _affine(rows, weights["qkv_weight"], weights["qkv_bias"], candidate)
        query, key, value = projected.unflatten(1, (heads, slots)).split(self.hidden, dim=-1)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.reshape(batch, heads * slots, self.hidden)
        mixed = _affine(attended, weights["out_weight"], weights["out_bias"], candidate)
        additive, multiplicative = mixed.split(self.features, dim=-1)
        hidden = torch.addcmul(rows + additive, rows, multiplicative)
        scores = _affine(hidden, weights["score_weight"].unsqueeze(-1), weights["score_bias"], candidate)
        return scores.reshape(batch, heads, slots).flip(2)


class MLP(Scorer):
    """Each token alone: one hidden layer with ReLU, then a linear head (the paper's ablation)."""

    def __init__(self, features: int, hidden: int) -> None:
        self.shapes = (
            ("hidden_weight", (features, hidden)),
            ("hidden_bias", (hidden,)),
            ("score_weight", (hidden,)),
            ("score_bias", (1,)),
        )

    def __call__(
        self,
        flat: Float[Tensor, "population params"],
        features: Float[Tensor, "batch kv_heads slots features"],
        valid: Bool[Tensor, "batch kv_heads slots"],
        candidate: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch kv_heads slots"]:
        """Scores; see :class:`Scorer`."""
        weights = self.unpack(flat)
        batch, heads, slots, width = features.shape
        rows = features.reshape(batch, heads * slots, width)
        hidden = relu(_affine(rows, weights["hidden_weight"], weights["hidden_bias"], candidate))
        scores = _affine(hidden, weights["score_weight"].unsqueeze(-1), weights["score_bias"], candidate)
        return scores.reshape(batch, heads, slots)


def _affine(
    rows: Float[Tensor, "batch rows inner"],
    weight: Float[Tensor, "population inner outer"],
    bias: Float[Tensor, "population outer"],
    candidate: Int[Tensor, " batch"],
) -> Float[Tensor, "batch rows outer"]:
    """Rows times their candidate's matrix, plus its bias; one candidate's is not repeated for every batch row."""
    if weight.shape[0] == 1:
        return torch.addmm(bias[0], rows.flatten(0, 1), weight[0]).unflatten(0, rows.shape[:2])
    return torch.baddbmm(bias[candidate].unsqueeze(1), rows, weight[candidate])


def make_scorer(config: NAMMConfig) -> Scorer:
    """The scorer a config names."""
    return {"bam": BAM, "mlp": MLP}[config.scorer](config.features, config.hidden)
