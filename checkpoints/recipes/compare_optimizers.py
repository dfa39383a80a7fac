"""Compares searches on the real recall fitness: `python checkpoints/recipes/compare_optimizers.py`.

The same source, prompts, population and number of generations for each, so equally many evaluations; what counts is the
validation fitness of the last mean. The result is in docs/evolution.md, and the default of `namm-evolve` is the winner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from checkpoints.recipes.evolution_grid import SMALL, Arm, Grid, compare
from evaluations.evolution.searches import make_optimizer
from namm import NAMMConfig

ARMS = {
    "cmaes-isotropic": ("cmaes-isotropic", 0.2, False),
    "cmaes-diagonal": ("cmaes-diagonal", 0.2, False),
    "cmaes": ("cmaes", 0.2, False),
    "cmaes, sigma 0.065": ("cmaes", 0.065, False),
    "cmaes-isotropic, sigma 0.065": ("cmaes-isotropic", 0.065, False),
    "cmaes-isotropic, antithetic": ("cmaes-isotropic", 0.2, True),
    "pycma": ("pycma", 0.2, False),
    "snes": ("snes", 0.2, False),
    "openai-es, antithetic": ("openai-es", 0.2, True),
}
"""Optimizer, first step size, antithetic pairs; `cmaes, sigma 0.065` is the paper's search."""


@dataclass(frozen=True)
class CompareConfig:
    """Which searches, how often, how long."""

    out: Path = Path("runs/compare-optimizers")
    """Evolutions and table."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Names of arms."""

    seeds: int = 5
    """Evolutions of each."""

    generations: int = 20
    """Generations of 32 candidates in each."""


def main(config: CompareConfig) -> None:
    """Runs what is missing, prints the table and writes it beside the evolutions."""
    namm = NAMMConfig(interval=SMALL.intervals[0])
    arms = {name: Arm(make_optimizer(ARMS[name][0], 32, *ARMS[name][1:]), namm, SMALL) for name in config.arms}
    compare(Grid(config.out, config.seeds, config.generations), arms, next(iter(arms)))


if __name__ == "__main__":
    from namm.terminal import any_terminal

    with any_terminal():
        main(tyro.cli(CompareConfig, description=(__doc__ or "").partition("\n\n")[0]))
