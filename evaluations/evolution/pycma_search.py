"""pycma (`pip install cma`) behind `ask` and `tell`: diagonal, VD or full covariance, as its author tunes it.

A pycma search can be saved as a pickle only, which is not read here. What is saved instead is all fitness told so far:
with a generator of its own the search is a function of start, seed and fitness, so it is repeated up to where it was,
bit for bit (300 generations of 4172 parameters: 2 s diagonal, minutes with a full covariance). The mean saved beside
it proves the repetition.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import CheckpointError, ConfigError
from namm.evolution.search import Search, checked_fitness, checked_mean

if TYPE_CHECKING:
    from cma import CMAEvolutionStrategy


@dataclass(frozen=True)
class PycmaConfig:
    """What a pycma search is started with."""

    population: int = 32
    """Candidates per generation."""
    sigma: float = 0.2
    """Initial step size, in units of the parameters."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """Model of the search distribution."""
    antithetic: bool = False
    """Mirror the worst half of the steps (pycma's CMA_mirrors)."""

    kind: ClassVar[str] = "pycma"

    def __post_init__(self) -> None:
        if self.population < 4 or not 0 < self.sigma < math.inf:
            raise ConfigError(
                f"pycma: expected a population of at least 4 and a positive sigma, found {self.population} and "
                f"{self.sigma}; change them."
            )

    def make(self, mean: Float[Tensor, " params"], seed: int) -> Pycma:
        """Starts the search at a mean."""
        return Pycma(mean, self, seed=seed)


class Pycma(Search):
    """A search whose state is its history."""

    def __init__(self, mean: Float[Tensor, " params"], config: PycmaConfig, *, seed: int) -> None:
        """Starts a search.

        Args:
            mean: Where to start.
            config: Population, step size, shape of the covariance.
            seed: Of the candidates.

        Raises:
            ConfigError: pycma is not installed, or the mean is not finite.
        """
        self.config, self.seed, self.start = config, seed, checked_mean(mean)
        self._begin()

    def _begin(self) -> None:
        try:
            import cma
        except ImportError as error:
            raise ConfigError("Optimizer pycma needs the package cma: pip install 'namm-suite[evolution]'.") from error
        random = np.random.default_rng(self.seed)
        options = {
            "popsize": self.config.population,
            "CMA_diagonal": self.config.covariance == "diagonal",
            "CMA_mirrors": 0.5 if self.config.antithetic else 0,
            "randn": lambda *shape: random.standard_normal(shape),
            "seed": math.nan,  # leaves numpy's global generator alone
            "verbose": -9,
        }
        self._strategy: CMAEvolutionStrategy = cma.CMAEvolutionStrategy(self.start.numpy(), self.config.sigma, options)
        self._asked: list[np.ndarray] | None = None
        self._told: list[Tensor] = []
        self.mean = self.start.clone()
        self.generation = 0

    def ask(self) -> Float[Tensor, "population params"]:
        """Draws the candidates of the next generation; the same ones until they are told."""
        if self._asked is None:
            self._asked = list(self._strategy.ask())
        return torch.from_numpy(np.stack(self._asked))

    def tell(self, candidates: Float[Tensor, "population params"], fitness: Float[Tensor, " population"]) -> int:
        """Learns from the candidates that `ask` gave; see `Search.tell`.

        Raises:
            ConfigError: These are other candidates.
        """
        expected = [self.config.population, self.start.numel()]
        fitness, alive = checked_fitness(candidates, fitness, expected, self.generation)
        if self._asked is None or not torch.equal(candidates, self.ask()):
            raise ConfigError("pycma tell: expected the candidates of the last ask(), found others; tell those.")
        cost = torch.where(alive, -fitness, -fitness[alive].min() + 1)  # failed: worse than the worst
        self._strategy.tell(self._asked, cost.tolist())
        self._told.append(fitness.clone())
        self._asked = None
        self.generation += 1
        self.mean = torch.from_numpy(np.array(self._strategy.mean, dtype=np.float64))
        return int((~alive).sum())

    def report(self) -> dict[str, float]:
        """Step size, axis ratio and length of the mean."""
        deviations = self._strategy.stds
        if self.config.covariance == "diagonal":
            ratio = float(np.max(deviations) / np.min(deviations))
        else:
            ratio = float(self._strategy.sm.condition_number) ** 0.5 if self.generation else 1.0
        return {
            "sigma": float(np.exp(np.mean(np.log(deviations)))),
            "axis_ratio": ratio,
            "mean_norm": float(self.mean.norm()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Start, mean, and the fitness of every generation."""
        told = torch.stack(self._told) if self._told else torch.zeros(0, self.config.population, dtype=torch.float64)
        scalars = {"generation": self.generation, "seed": self.seed, "config": dataclasses.asdict(self.config)}
        return {"tensors": {"start": self.start, "mean": self.mean, "told": told}, "scalars": scalars}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Repeats the search; see `Search.load_state_dict`.

        Raises:
            CheckpointError: Another configuration, something missing, or a repetition that comes out differently
                (another machine or another version of pycma).
        """
        tensors, scalars = state["tensors"], state["scalars"]
        if scalars.get("config") != dataclasses.asdict(self.config):
            raise CheckpointError(
                f"pycma state: expected configuration {dataclasses.asdict(self.config)}, found "
                f"{scalars.get('config')}; continue with the configuration that the state was saved with."
            )
        shapes = {
            "start": self.start.shape,
            "mean": self.start.shape,
            "told": (scalars["generation"], self.config.population),
        }
        for name, shape in shapes.items():
            if name not in tensors or tuple(tensors[name].shape) != tuple(shape):
                raise CheckpointError(
                    f"pycma state: expected {name} of shape {list(shape)}; the checkpoint is damaged."
                )
        self.start, self.seed = tensors["start"].clone(), int(scalars["seed"])
        self._begin()
        for fitness in tensors["told"]:
            self.tell(self.ask(), fitness)
        if not torch.equal(self.mean, tensors["mean"]):
            raise CheckpointError(
                f"pycma state: expected to come to the saved mean after {self.generation} generations, found one "
                f"{float((self.mean - tensors['mean']).norm()):.1e} away; continue on the machine and with the version "
                "of cma that it was saved with."
            )
