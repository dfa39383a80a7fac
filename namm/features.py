"""What a NAMM sees of a token: an embedding of its age, its z-scored attention spectrum (25 numbers), key signals.

Attention magnitudes differ between models by orders of magnitude, so WHOSE mean and deviation the z-score uses
decides whether a NAMM transfers. Three choices, always stated in results:

    source    frozen, from the model the NAMM was evolved on (as released)
    target    frozen, re-estimated without labels by a full-cache pass over the target, one pair a layer
    sequence  of each sequence, layer and KV head alone, at each update; needs no pass
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.errors import UnknownNameError, did_you_mean

StatisticsMode = Literal["source", "target", "sequence"]
MIN_DEVIATION = 1e-7


def check_statistics_mode(mode: str) -> None:
    """Raises UnknownNameError unless ``mode`` is source, target or sequence."""
    known = get_args(StatisticsMode)
    if mode not in known:
        raise UnknownNameError(f"Unknown feature statistics {mode!r}. {did_you_mean(mode, known)}")


def recency_embedding(age: Int[Tensor, "*tokens"], dim: int, max_frequency: float) -> Float[Tensor, "*tokens dim"]:
    """Sines, then cosines, of the age in tokens (newest token: age 0) at ``dim / 2`` frequencies.

    Computed in double precision: at large ages single precision loses the fast phases.
    """
    half = dim // 2
    frequency = max_frequency ** (-torch.arange(half, dtype=torch.float64, device=age.device) / half)
    phase = age.to(torch.float64).unsqueeze(-1) * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1).to(torch.float32)


def z_score(
    spectrum: Float[Tensor, "*tokens bins"], mean: Float[Tensor, "*any bins"], deviation: Float[Tensor, "*any bins"]
) -> Float[Tensor, "*tokens bins"]:
    """``(spectrum - mean) / deviation``, the deviation held above 1e-7."""
    return (spectrum - mean) / deviation.clamp_min(MIN_DEVIATION)


def sequence_statistics(
    spectrum: Float[Tensor, "*heads slots bins"], valid: Bool[Tensor, "*heads slots"]
) -> tuple[Float[Tensor, "*heads 1 bins"], Float[Tensor, "*heads 1 bins"]]:
    """Mean and population deviation of each head's own tokens at this update."""
    weight = valid.unsqueeze(-1).to(spectrum.dtype)
    count = weight.sum(dim=-2, keepdim=True).clamp_min(1.0)
    mean = (spectrum * weight).sum(dim=-2, keepdim=True) / count
    variance = ((spectrum - mean).square() * weight).sum(dim=-2, keepdim=True) / count
    return mean, variance.sqrt()


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and deviation of each frequency bin, one pair a layer (or one for all layers: ``layers == 1``)."""

    mean: Float[Tensor, "layers bins"]
    deviation: Float[Tensor, "layers bins"]

    def of_layer(self, layer: int) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"]]:
        """The pair in force at a layer."""
        index = layer if self.mean.shape[0] > 1 else 0
        return self.mean[index], self.deviation[index]


class RunningStatistics:
    """Pooled mean and population variance over any number of batches, per layer, in double precision.

    Merging is exact (parallel-variance formula), so the order and size of batches do not matter beyond rounding.
    """

    def __init__(self, layers: int, bins: int) -> None:
        self.count = torch.zeros(layers, 1, dtype=torch.float64)
        self.mean = torch.zeros(layers, bins, dtype=torch.float64)
        self.variance = torch.zeros(layers, bins, dtype=torch.float64)

    def add(self, layer: int, spectrum: Float[Tensor, "tokens bins"]) -> None:
        """Adds the spectra of valid tokens of one layer; those without bins are only counted."""
        if spectrum.shape[0] == 0:
            return
        if spectrum.shape[1] == 0:
            self.count[layer] += spectrum.shape[0]
            return
        rows = spectrum.detach().to("cpu", torch.float64)
        new_mean, new_variance, new_count = rows.mean(0), rows.var(0, correction=0), rows.shape[0]
        old = float(self.count[layer])
        share = old / (old + new_count)
        shift = new_mean - self.mean[layer]
        self.variance[layer] = (
            share * self.variance[layer] + (1 - share) * new_variance + shift.square() * share * (1 - share)
        )
        self.mean[layer] = share * self.mean[layer] + (1 - share) * new_mean
        self.count[layer] = old + new_count

    def per_layer(self) -> FeatureStatistics:
        """One pair a layer, as the target's own statistics."""
        return FeatureStatistics(self.mean.float(), _deviation(self.variance))

    def pooled(self) -> FeatureStatistics:
        """One pair for all layers, as the released code freezes from its source."""
        share = self.count / self.count.sum().clamp_min(1.0)
        mean = (share * self.mean).sum(0, keepdim=True)
        variance = (share * (self.variance + (self.mean - mean).square())).sum(0, keepdim=True)
        return FeatureStatistics(mean.float(), _deviation(variance))


def _deviation(variance: Float[Tensor, "layers bins"]) -> Float[Tensor, "layers bins"]:
    """At least what :func:`z_score` divides by, so that what is saved says what is done."""
    return variance.sqrt().float().clamp_min(MIN_DEVIATION)
