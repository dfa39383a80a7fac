"""The paper's ablations of a NAMM at small scale, one command: `python checkpoints/recipes/ablations.py`.

Scorer (BAM or MLP), with and without the age of tokens, which signals are read (attention as a spectrogram or a mean,
keys, norms), EMA coefficient, interval of updates: each arm changes one thing of the baseline and is evolved alike. The
result is in docs/evolution.md, but for the arms of keys and norms and of age alone, which came later and were not run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from checkpoints.recipes.evolution_grid import SMALL, Arm, Grid, compare
from evaluations.evolution.searches import make_optimizer
from namm import NAMMConfig
from namm.signals import KEY_SIGNALS

BASE = NAMMConfig(interval=SMALL.intervals[0])
SEARCH = make_optimizer("cmaes-isotropic", 32, 0.2)
ARMS = {
    "baseline": Arm(SEARCH, BASE, SMALL),
    "MLP": Arm(SEARCH, replace(BASE, scorer="mlp"), SMALL),
    "no recency": Arm(SEARCH, replace(BASE, recency_dim=0), SMALL),
    "mean attention": Arm(SEARCH, replace(BASE, signals=("mean",)), SMALL),
    "MLP, mean attention": Arm(SEARCH, replace(BASE, scorer="mlp", signals=("mean",)), SMALL),
    "age alone": Arm(SEARCH, replace(BASE, signals=()), SMALL),
    "keys alone": Arm(SEARCH, replace(BASE, signals=("key_difference",)), SMALL),
    "attention and keys": Arm(SEARCH, replace(BASE, signals=("spectrogram", "key_difference")), SMALL),
    "attention, keys, norms": Arm(
        SEARCH, replace(BASE, signals=("spectrogram", "key_difference", "key_norm", "value_norm")), SMALL
    ),
    "every signal": Arm(SEARCH, replace(BASE, signals=("spectrogram", *KEY_SIGNALS)), SMALL),
    "EMA 0.9": Arm(SEARCH, replace(BASE, decay=0.9), SMALL),
    "EMA 0.999": Arm(SEARCH, replace(BASE, decay=0.999), SMALL),
    "interval 16": Arm(SEARCH, replace(BASE, interval=16), replace(SMALL, intervals=(16,))),
    "interval 80": Arm(SEARCH, replace(BASE, interval=80), replace(SMALL, intervals=(80,))),
}
"""The baseline is BAM with spectrogram, recency and EMA 0.99 at intervals 32 and 48."""


@dataclass(frozen=True)
class AblationsConfig:
    """Which arms, how often, how long."""

    out: Path = Path("runs/ablations")
    """Evolutions and table."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Names of arms; "baseline" must be among them."""

    seeds: int = 3
    """Evolutions of each."""

    generations: int = 20
    """Generations of 32 candidates in each."""


def main(config: AblationsConfig) -> None:
    """Runs what is missing, prints the table and writes it beside the evolutions."""
    grid = Grid(config.out, config.seeds, config.generations)
    compare(grid, {name: ARMS[name] for name in config.arms}, "baseline")


if __name__ == "__main__":
    from namm.terminal import any_terminal

    with any_terminal():
        main(tyro.cli(AblationsConfig, description=(__doc__ or "").partition("\n\n")[0]))
