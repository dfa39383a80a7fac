"""What every search offers: `ask` for candidates, `tell` their fitness, and a state that continues bit for bit.

The generation loop knows searches by this interface alone. CMA-ES (`namm.evolution.cmaes`) is one; searches of other
libraries are others. Larger fitness is better, and the *mean* is what is deployed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.errors import ConfigError, NammError


class Search(ABC):
    """One search: ``candidates = search.ask()``, ``search.tell(candidates, fitness)``, again and again."""

    generation: int
    """Generations told."""

    mean: Float[Tensor, " params"]
    """Centre of the search, float64; replaced, never changed in place."""

    @abstractmethod
    def ask(self) -> Float[Tensor, "population params"]:
        """Draws the candidates of the next generation, float64."""

    @abstractmethod
    def tell(self, candidates: Float[Tensor, "population params"], fitness: Float[Tensor, " population"]) -> int:
        """Learns from evaluated candidates.

        Args:
            candidates: One a row.
            fitness: Fitness of each row; not finite for a candidate that failed.

        Returns:
            How many candidates failed.

        Raises:
            ConfigError: Shapes do not fit, or a candidate is not finite.
            NammError: Every candidate failed; nothing was changed.
        """

    @abstractmethod
    def report(self) -> dict[str, float]:
        """Figures to log; at least ``sigma`` (typical deviation of a parameter), ``axis_ratio`` and ``mean_norm``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """``tensors`` and JSON-able ``scalars`` (``generation`` among them) for a bit-identical continuation."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` gave.

        Raises:
            CheckpointError: The state belongs to another configuration, or something in it is missing or misshapen.
        """


@runtime_checkable
class SearchConfig(Protocol):
    """A frozen dataclass that says which search to make."""

    kind: ClassVar[str]
    """Name of the search."""

    @property
    def population(self) -> int:
        """Candidates per generation."""
        ...

    def make(self, mean: Float[Tensor, " params"], seed: int) -> Search:
        """Starts the search at a mean."""
        ...


def checked_mean(mean: Float[Tensor, " params"]) -> Float[Tensor, " params"]:
    """A float64 copy of a first mean.

    Raises:
        ConfigError: It is empty or not finite.
    """
    if mean.ndim != 1 or mean.numel() < 1 or not bool(torch.isfinite(mean).all()):
        raise ConfigError(
            f"Mean of a search: expected a finite vector, found shape {list(mean.shape)} with "
            f"{int((~torch.isfinite(mean)).sum())} values that are not finite; pass a flat vector of parameters."
        )
    return mean.detach().to("cpu", torch.float64, copy=True)


def checked_fitness(
    candidates: Float[Tensor, "population params"],
    fitness: Float[Tensor, " population"],
    expected: list[int],
    generation: int,
) -> tuple[Float[Tensor, " population"], Bool[Tensor, " population"]]:
    """What a `tell` starts with: the fitness in float64, and which candidates have one.

    Args:
        candidates: As told.
        fitness: As told.
        expected: Population and parameters.
        generation: Generations told before.

    Raises:
        ConfigError: Shapes do not fit, or a candidate is not finite.
        NammError: Every candidate failed.
    """
    if list(candidates.shape) != expected or list(fitness.shape) != expected[:1]:
        raise ConfigError(
            f"Search: expected candidates {expected} and fitness {expected[:1]}, found "
            f"{list(candidates.shape)} and {list(fitness.shape)}; tell the whole population at once."
        )
    if not bool(torch.isfinite(candidates).all()):
        raise ConfigError(
            "Search tell: expected finite candidates, found NaN or infinite ones; pass on what ask() gave."
        )
    fitness = fitness.detach().to("cpu", torch.float64)
    alive = torch.isfinite(fitness)
    if not bool(alive.any()):
        raise NammError(
            f"Search: expected at least one finite fitness, found {len(fitness)} of {len(fitness)} candidates failed "
            f"at generation {generation + 1}; look at the error of one candidate, nothing was learned from them."
        )
    return fitness, alive
