"""Searches by name: our CMA-ES in its three shapes, and those of other libraries, all behind one `ask` and `tell`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from evaluations.evolution.pycma_search import PycmaConfig
from evaluations.evolution.snes_search import SNESConfig
from namm.errors import UnknownNameError, did_you_mean
from namm.evolution.cmaes import CMAESConfig
from namm.evolution.search import SearchConfig

OPTIMIZERS: Mapping[str, Callable[[int, float, bool], SearchConfig]] = MappingProxyType(
    {
        "cmaes": lambda population, sigma, antithetic: CMAESConfig(population, sigma, antithetic=antithetic),
        "cmaes-diagonal": lambda population, sigma, antithetic: CMAESConfig.preset(
            "separable", population=population, sigma=sigma, antithetic=antithetic
        ),
        "cmaes-isotropic": lambda population, sigma, antithetic: CMAESConfig.preset(
            "isotropic", population=population, sigma=sigma, antithetic=antithetic
        ),
        "pycma": lambda population, sigma, antithetic: PycmaConfig(population, sigma, "diagonal", antithetic),
        "pycma-full": lambda population, sigma, antithetic: PycmaConfig(population, sigma, "full", antithetic),
        "snes": lambda population, sigma, antithetic: SNESConfig(population, sigma, antithetic=antithetic),
        "openai-es": lambda population, sigma, antithetic: SNESConfig(
            population, sigma, deviation_rate=0.0, antithetic=antithetic, shaping="centered"
        ),
    }
)
"""`cmaes` has the released constants and a full covariance; pycma needs `cma`, the last two need `evotorch`."""


def make_optimizer(name: str, population: int, sigma: float, antithetic: bool = False) -> SearchConfig:
    """The configuration of a search.

    Args:
        name: A key of `OPTIMIZERS`.
        population: Candidates a generation.
        sigma: Initial step size.
        antithetic: Whether candidates come in opposite pairs.

    Raises:
        UnknownNameError: There is no such search.
        ConfigError: A number is out of its range.
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError(f"No optimizer {name!r}. {did_you_mean(name, OPTIMIZERS)}")
    return OPTIMIZERS[name](population, sigma, antithetic)
