"""Fitness noise: how far a candidate's fitness is off because of the prompts it happened to get.

What counts is the part that changes the order of candidates. A few of them are scored again, under another seed; half
the variance of the differences is what is left of the noise when all candidates share their prompts. Beside the
variance among all candidates it tells learning from drifting: a `signal_share` near 0 means that ranks are luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MEMORY = 0.9
"""Weight of what was measured before beside a new measurement."""


@dataclass(frozen=True)
class Noise:
    """What was measured so far, older measurements weighing less."""

    squares: float = 0.0
    """Weighted sum of degrees of freedom times variance."""

    degrees: float = 0.0
    """Weighted sum of degrees of freedom."""

    def measured(self, first: Float[Tensor, " candidates"], second: Float[Tensor, " candidates"]) -> Noise:
        """With two scores of the same candidates added; unchanged where fewer than two candidates have both."""
        differences = (first - second)[torch.isfinite(first) & torch.isfinite(second)]
        degrees = len(differences) - 1
        if degrees < 1:
            return self
        squares = MEMORY * self.squares + degrees * float(differences.var()) / 2
        return Noise(squares, MEMORY * self.degrees + degrees)

    def report(self, fitness: Float[Tensor, " population"]) -> dict[str, float | None]:
        """The noise's standard deviation, and the share of a population's variance that it leaves for merit."""
        if not self.degrees:
            return {"deviation": None, "signal_share": None}
        variance = self.squares / self.degrees
        alive = fitness[torch.isfinite(fitness)]
        among = float(alive.var()) if len(alive) > 1 else 0.0
        share = max(0.0, 1 - variance / among) if among > 0 else 0.0
        return {"deviation": math.sqrt(variance), "signal_share": share}
