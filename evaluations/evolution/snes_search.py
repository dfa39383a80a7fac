"""SNES, and OpenAI's evolution strategy as its special case, on the distribution classes of evotorch.

Only the arithmetic is evotorch's (gradient, utilities, update); samples come from a generator that is owned and saved
here, so the state is three tensors and continues bit for bit. With `deviation_rate=0` the deviations stay as they are,
and what is left is OpenAI's strategy with plain gradient steps. Sources: Schaul et al. 2011 (SNES), arXiv 1703.03864.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import CheckpointError, ConfigError
from namm.evolution.search import Search, checked_fitness, checked_mean

Shaping = Literal["nes", "centered", "linear", "normalized", "raw"]


@dataclass(frozen=True)
class SNESConfig:
    """What an SNES is started with."""

    population: int = 32
    """Candidates per generation."""
    sigma: float = 0.2
    """Initial deviation of every parameter."""
    mean_rate: float = 1.0
    """Learning rate of the mean."""
    deviation_rate: float | None = None
    """Learning rate of the deviations; None for (3 + ln n) / (5 sqrt n), 0 keeps them (OpenAI's strategy)."""
    antithetic: bool = False
    """Draw every second candidate opposite to the one before it; needs an even population."""
    shaping: Shaping = "nes"
    """What stands for the fitness: utilities of ranks (nes), ranks (centered, linear), or values (normalized, raw)."""

    kind: ClassVar[str] = "snes"

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("population", self.population >= 4, "at least 4"),
            ("population", self.population % 2 == 0 or not self.antithetic, "an even number, for antithetic pairs"),
            ("sigma", 0 < self.sigma < math.inf, "a positive number"),
            ("mean_rate", 0 < self.mean_rate < math.inf, "a positive number"),
            ("deviation_rate", self.deviation_rate is None or 0 <= self.deviation_rate < math.inf, "None, 0 or more"),
        ):
            if not fine:
                raise ConfigError(f"SNES {name}: expected {expected}, found {getattr(self, name)}; change it.")

    def make(self, mean: Float[Tensor, " params"], seed: int) -> SNES:
        """Starts the search at a mean."""
        return SNES(mean, self, seed=seed)


class SNES(Search):
    """A separable natural evolution strategy."""

    def __init__(self, mean: Float[Tensor, " params"], config: SNESConfig, *, seed: int) -> None:
        """Starts a search.

        Args:
            mean: Where to start.
            config: Population, deviation, learning rates.
            seed: Of the candidates.

        Raises:
            ConfigError: evotorch is not installed, or the mean is not finite.
        """
        try:
            from evotorch.distributions import ExpSeparableGaussian
        except ImportError as error:
            raise ConfigError("Optimizer snes needs evotorch: pip install 'namm-suite[evolution]'.") from error
        self._make = ExpSeparableGaussian
        self.config = config
        self.mean = checked_mean(mean)
        self.deviations = torch.full_like(self.mean, config.sigma)
        self.generation = 0
        self._generator = torch.Generator().manual_seed(seed)

    def ask(self) -> Float[Tensor, "population params"]:
        """Draws the candidates of the next generation."""
        drawn = self.config.population // (2 if self.config.antithetic else 1)
        normal = torch.randn(drawn, self.mean.numel(), dtype=torch.float64, generator=self._generator)
        if self.config.antithetic:
            normal = torch.stack([normal, -normal], dim=1).flatten(0, 1)
        return self.mean + self.deviations * normal

    def tell(self, candidates: Float[Tensor, "population params"], fitness: Float[Tensor, " population"]) -> int:
        """Learns from evaluated candidates; see `Search.tell`. A failed one counts as the worst of the others."""
        params = self.mean.numel()
        fitness, alive = checked_fitness(candidates, fitness, [self.config.population, params], self.generation)
        fitness = torch.where(alive, fitness, fitness[alive].min())
        distribution = self._make({"mu": self.mean, "sigma": self.deviations}, dtype=torch.float64)
        gradients = distribution.compute_gradients(
            candidates.to("cpu", torch.float64), fitness, objective_sense="max", ranking_method=self.config.shaping
        )
        rate = self.config.deviation_rate
        rates = {
            "mu": self.config.mean_rate,
            "sigma": (3 + math.log(params)) / (5 * math.sqrt(params)) if rate is None else rate,
        }
        moved = distribution.update_parameters(gradients, learning_rates=rates)
        self.mean, self.deviations = moved.mu.clone(), moved.sigma.clone()
        self.generation += 1
        return int((~alive).sum())

    def report(self) -> dict[str, float]:
        """Typical deviation, ratio of the largest to the smallest, length of the mean."""
        return {
            "sigma": float(self.deviations.log().mean().exp()),
            "axis_ratio": float(self.deviations.max() / self.deviations.min()),
            "mean_norm": float(self.mean.norm()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Mean, deviations and generator."""
        tensors = {"mean": self.mean, "deviations": self.deviations, "generator": self._generator.get_state()}
        return {
            "tensors": tensors,
            "scalars": {"generation": self.generation, "config": dataclasses.asdict(self.config)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues; see `Search.load_state_dict`."""
        tensors, scalars, own = state["tensors"], state["scalars"], self.state_dict()
        if scalars.get("config") != own["scalars"]["config"]:
            raise CheckpointError(
                f"SNES state: expected configuration {own['scalars']['config']}, found {scalars.get('config')}; "
                "continue with the configuration that the state was saved with."
            )
        for name, like in own["tensors"].items():
            if name not in tensors or tensors[name].shape != like.shape or tensors[name].dtype != like.dtype:
                raise CheckpointError(
                    f"SNES state: expected {name} of shape {list(like.shape)}; the checkpoint is damaged."
                )
        self.mean, self.deviations = tensors["mean"].clone(), tensors["deviations"].clone()
        self._generator.set_state(tensors["generator"].clone())
        self.generation = int(scalars["generation"])
