"""Evolves the NAMM that ships as text-v2, on text alone: `python checkpoints/recipes/text_v2.py`.

A curriculum: first every head is capped, so that what is found chooses tokens and not heads; then the cap is lifted
and the price decides the size, over several intervals and with feature statistics that change from generation to
generation; then ever smaller steps, without which a mean of 4172 numbers wanders in the noise of its own steps. What
does best on validation prompts is shipped, then judged once: on test prompts of text, on mazes and on Hopper
(`text_v2_judge`). Every part resumes where it was killed.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import tyro
from rich.console import Console

import checkpoints
from checkpoints.recipes.text_v2_card import write_card
from checkpoints.recipes.text_v2_judge import JudgeConfig, judge_control, judge_text
from checkpoints.recipes.text_v2_stages import STAGES
from evaluations.evolution.recall_fitness import RecallFitness, RecallFitnessConfig
from evaluations.evolve import EvolveConfig, load_source
from evaluations.evolve import run as run_evolution
from namm import NAMM
from namm.errors import ConfigError

SHIPPED = Path(checkpoints.__file__).parent


@dataclass(frozen=True)
class TextV2Config:
    """The recipe; defaults are what was shipped."""

    out: Path = SHIPPED / "namm" / "text-v2"
    """Where the chosen NAMM and its card go."""

    work: Path = Path("runs/text-v2")
    """Where the evolutions and the comparisons lie."""

    seed: int = 0
    """Added to every stage's seed: another number is another NAMM by the same rules; give it another out and work."""

    choice: RecallFitnessConfig = field(
        default_factory=lambda: RecallFitnessConfig(
            context_tokens=(288, 640), intervals=(32, 64), price=0.12, validation_prompts=24
        )
    )
    """What stages are chosen on: other lengths and intervals than those of evolution among them, and no cap."""

    least_score: float = 0.98
    """Stages below this fraction of the full cache's score on validation prompts are not shipped."""

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What the chosen one is judged on, once."""


def evolutions(config: TextV2Config) -> dict[str, EvolveConfig]:
    """Every evolution of the recipe, by name, in order.

    Raises:
        ConfigError: A stage starts from one that does not come before it.
    """
    runs: dict[str, EvolveConfig] = {}
    for name, stage in STAGES.items():
        if stage.after is not None and stage.after not in runs:
            raise ConfigError(f"Stage {name!r} starts from {stage.after!r}, which must come before it; reorder STAGES.")
        runs[name] = EvolveConfig(
            out=config.work / name,
            generations=stage.generations,
            seed=config.seed + stage.seed,
            fitness=stage.fitness,
            threads=1,
            sigma=stage.sigma,
            start=None if stage.after is None else config.work / stage.after / "namm",
        )
    return runs


def _evolve(config: EvolveConfig) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    with (config.out / "log.txt").open("a", encoding="utf-8") as log:
        run_evolution(config, Console(file=log, width=200))


def choose(
    runs: dict[str, EvolveConfig], fitness: RecallFitnessConfig, least_score: float
) -> tuple[str, dict[str, dict[str, float]]]:
    """The stage that does best on validation prompts, and what each reached, all on the same prompts and uncapped.

    Those below the least score come last.
    """
    model = load_source(next(iter(runs.values())).model, torch.float32)
    reached: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        namm = NAMM.from_pretrained(run.out / "namm")
        report = RecallFitness(model, namm, fitness).validate(namm.flat, 0)
        reached[name] = {
            "fitness": report.score,
            "score": report.extras["relative_score"],
            "kept": report.extras["kept_fraction"],
        }
    return max(reached, key=lambda name: (reached[name]["score"] >= least_score, reached[name]["fitness"])), reached


def main(config: TextV2Config) -> None:
    """Evolve, choose, judge, write the card."""
    began = time.perf_counter()
    runs = evolutions(config)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # interrupting one leaves this process whole
        for run in runs.values():
            pool.submit(_evolve, run).result()
    torch.set_num_threads(1)  # batches this small gain nothing from more
    chosen, reached = choose(runs, config.choice, config.least_score)
    config.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(runs[chosen].out / "namm" / name, config.out / name)
    judge = replace(config.judge, namm=config.out)
    table = judge_text(judge, config.work / "text")
    control = judge_control(judge, config.work / "control")
    write_card(
        config.out, runs, STAGES, config.choice, config.least_score, chosen, reached, judge, table, control, config.seed
    )  # fmt: skip
    print(f"text-v2 is {chosen}; done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    from namm.terminal import any_terminal

    with any_terminal():
        main(tyro.cli(TextV2Config))
