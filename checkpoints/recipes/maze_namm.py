"""Evolves a NAMM where it acts, in T-mazes, to be tried on text and video: `python checkpoints/recipes/maze_namm.py`.

The other direction of transfer: CMA-ES from zero (which keeps everything), success in the maze less a price on size.
The mean with the best validation is saved with a card; a run that is killed continues with the same command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import checkpoints
from evaluations.evolution.control_fitness import ControlFitness, ControlSource
from evaluations.evolution.searches import make_optimizer
from modalities.control.agents import ControlModel
from namm import NAMM, NAMMConfig
from namm.evolution.history import read_rows
from namm.evolution.loop import EvolutionConfig, EvolutionResult, evolve
from namm.files import file_sha256, write_atomically

SHIPPED = Path(checkpoints.__file__).parent
PLACES = ("out", "work", "model")
"""Settings that are places on a machine."""


@dataclass(frozen=True)
class MazeConfig:
    """The evolution."""

    out: Path = SHIPPED / "namm" / "maze-v1"
    """Where the NAMM goes."""

    work: Path = Path("runs/maze-v1")
    """The run."""

    model: Path = SHIPPED / "control" / "tmaze"
    """Who acts."""

    corridor: int = 60
    """Steps of the corridor."""

    signals: tuple[str, ...] = ("spectrogram", "key_difference")
    generations: int = 100
    population: int = 16
    episodes: int = 4
    """Of each candidate and generation."""

    validation: int = 32
    """Episodes of a validation."""

    sigma: float = 0.065
    price: float = 0.5
    """Success that a whole history is worth."""

    seed: int = 0


def main(config: MazeConfig) -> None:
    """Evolves what is left, and saves the best mean with its card."""
    torch.set_num_threads(1)
    namm = NAMM(NAMMConfig(interval=48, signals=config.signals, trained_statistics="sequence"))
    source = ControlSource(
        ControlModel.load(config.model), {"corridor_steps": config.corridor}, config.episodes, config.validation
    )
    fitness = ControlFitness(source, namm, config.price)
    search = EvolutionConfig(
        generations=config.generations,
        seed=config.seed,
        validate_every=10,
        noise_every=0,
        part=16,
        search=make_optimizer("cmaes-isotropic", config.population, config.sigma, False),
    )

    def told(row: Mapping[str, Any], result: EvolutionResult) -> None:
        shown = ("generation", "fitness_mean", "success", "kept_fraction", "validation", "seconds")
        print(json.dumps({key: row[key] for key in shown if key in row}, default=float), flush=True)

    result = evolve(fitness, namm.flat, search, config.work, validate=fitness.validate, callback=told)
    best = NAMM(namm.config, result.best_mean, namm.statistics)
    best.save_pretrained(config.out)
    found = fitness.validate(best.flat, 0)
    facts = {
        "recipe": {
            **{name: told for name, told in asdict(config).items() if name not in PLACES},
            "model": config.model.name,
        },
        "generations": result.generation,
        "best_generation": result.best_generation,
        "validation": {"fitness": found.score, **dict(found.extras)},
        "seconds": round(sum(row["seconds"] for row in read_rows(config.work))),
        "sha256": file_sha256(config.out / "model.safetensors"),
    }
    write_atomically(config.out / "card.json", json.dumps(facts, indent=2) + "\n")
    write_atomically(config.out / "README.md", _card(config, facts))


def _card(config: MazeConfig, facts: Mapping[str, Any]) -> str:
    found = facts["validation"]
    return (
        f"# {config.out.name}\n\nA NAMM that was evolved where it acts: the shipped `{config.model.name}` Decision "
        f"Transformer in T-mazes of\n{config.corridor} steps, from zero, with CMA-ES. Besides a token's age it reads "
        f"{', '.join(config.signals)},\nunder the statistics of each sequence. It has seen no text.\n\n"
        f"Made with `python checkpoints/recipes/maze_namm.py --seed {config.seed}`: {facts['generations']} generations "
        f"of\n{config.population} candidates on {config.episodes} episodes each; the mean of generation "
        f"{facts['best_generation']} had the best validation.\n\n"
        f"On {config.validation} validation episodes, which chose it: success {100 * found['success']:.1f}%, kept "
        f"{100 * found['kept_fraction']:.1f}%. What it does\nelsewhere: docs/transfer.md.\n\n"
        f"sha256 of model.safetensors: `{facts['sha256']}`\n"
    )


if __name__ == "__main__":
    main(tyro.cli(MazeConfig))
