"""Scaled rotary positions: a longer context window without training, by a larger base (NTK) or slower turning (linear).

``base' = base * (alpha * factor - (alpha - 1)) ** (d / (d - 2))`` for all lengths alike (static), as the released NAMM
code reads 32k tokens with Llama-3-8B (factor 4, alpha 2). That code also casts the frequencies to bf16 with the rest of
the model, which shifts phases by up to half a radian at distance 512; whoever compares with its numbers needs it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from namm.errors import AttachError, ConfigError


@dataclass(frozen=True)
class NTKRope:
    """How far rotary positions are stretched; defaults as released."""

    factor: float = 4.0
    """Context windows that should fit, in units of the model's own."""

    alpha: float = 2.0
    """Strength of the stretch."""

    bf16_frequencies: bool | None = None
    """Round the frequencies to bf16, as the released code does; None rounds them where the model is in bf16."""

    def __post_init__(self) -> None:
        if self.stretch <= 0.0:
            raise ConfigError(
                f"NTK scaling needs alpha * factor - (alpha - 1) > 0, found factor={self.factor}, alpha={self.alpha}."
            )

    @property
    def stretch(self) -> float:
        """What is raised to ``d / (d - 2)``: 7 as released."""
        return self.alpha * self.factor - (self.alpha - 1.0)

    def base(self, base: float, dim: int) -> float:
        """The new base, given the model's own and the width that is rotated."""
        return base * self.stretch ** (dim / (dim - 2))

    def frequencies(self, base: float, dim: int, rounded: bool) -> Float[Tensor, " half_dim"]:
        """Radians per token of each pair, fp32."""
        frequencies = 1.0 / (self.base(base, dim) ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        return frequencies.bfloat16().float() if rounded else frequencies


@dataclass(frozen=True)
class LinearRope:
    """Positions turn slower by a factor (position interpolation, arXiv 2306.15595), as in transformers' "linear"."""

    factor: float
    """Context windows that should fit, in units of the model's own."""

    def __post_init__(self) -> None:
        if not self.factor >= 1.0:
            raise ConfigError(f"Linear scaling needs a factor of 1 or more, found {self.factor}.")

    def frequencies(self, base: float, dim: int, rounded: bool) -> Float[Tensor, " half_dim"]:
        """Radians per token of each pair, fp32; never rounded."""
        return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)) / self.factor


def scale_rope(model: PreTrainedModel, rope: NTKRope | LinearRope) -> dict[nn.Module, Tensor]:
    """Stretches the rotary positions of a model's decoder for good; those of a vision tower are no text's.

    Returns:
        The frequencies that each rotary module had before.

    Raises:
        AttachError: The model has no rotary embedding of the plain kind, or one that is scaled already.
    """
    told = getattr(rope, "bf16_frequencies", None)
    rounded = model.dtype == torch.bfloat16 if told is None else told
    before = {}
    for module, old, base in _rotary_modules(model):
        before[module] = old
        module.inv_freq = rope.frequencies(base, 2 * old.shape[0], rounded).to(old.device)
    return before


@contextmanager
def scaled_rope(model: PreTrainedModel, rope: NTKRope | LinearRope) -> Iterator[None]:
    """The same for the length of a ``with`` block."""
    before = scale_rope(model, rope)
    try:
        yield
    finally:
        for module, frequencies in before.items():
            module.inv_freq = frequencies


def _rotary_modules(model: PreTrainedModel) -> list[tuple[nn.Module, Tensor, float]]:
    """Modules with their rotary frequencies and base; raises AttachError for what scaling would get wrong."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    holders = [(m, held) for m in decoder.modules() if isinstance(held := getattr(m, "inv_freq", None), Tensor)]
    if not holders:
        raise AttachError(
            f"{type(model).__name__} has no rotary embedding with one set of frequencies, so scaling does not "
            "apply; attach the policy without it."
        )
    found = []
    for module, frequencies in holders:
        kind = getattr(module, "rope_type", "default")
        parameters = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
        if kind != "default" or "rope_theta" not in parameters:
            raise AttachError(
                f"{type(model).__name__} scales its rotary positions itself (rope type {kind!r}); scaling on top "
                "would be neither. Load the model with rope type 'default', or attach the policy without scaling."
            )
        found.append((module, frequencies, parameters["rope_theta"]))
    return found
