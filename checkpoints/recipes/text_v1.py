"""Evolves the NAMM that ships as text-v1, on text alone: `python checkpoints/recipes/text_v1.py`.

Several evolutions differ in seed and in whose feature statistics they see; the one that does best on validation prompts
is shipped, then judged once on test prompts that nothing was chosen on: at the lengths and intervals it was evolved
on, on contexts three times longer, and at intervals it never saw. Every part resumes where it was killed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console

import checkpoints
from evaluations import text
from evaluations.estimates import Estimate
from evaluations.evolve import EvolveConfig, load_source
from evaluations.evolve import run as run_evolution
from evaluations.harness import file_sha256, versions, write_atomically
from evaluations.recall_fitness import RecallFitness, RecallFitnessConfig
from namm import NAMM

SHIPPED = Path(checkpoints.__file__).parent
RIVALS = ("window", "random", "l2_norm", "h2o", "h2o_age")
ALLOCATED = ("window@heads", "random@heads")


@dataclass(frozen=True)
class TextV1Config:
    """The recipe; defaults are what was shipped."""

    out: Path = SHIPPED / "namm" / "text-v1"
    """Where the chosen NAMM and its card go."""

    work: Path = Path("runs/text-v1")
    """Where the evolutions and the comparison lie."""

    generations: int = 150
    """Generations of each evolution."""

    seeds: tuple[int, ...] = (0,)
    """One evolution a seed and kind of statistics."""

    statistics: tuple[str, ...] = ("source", "source+sequence")
    """Feature statistics seen while evolving: one kind, or one drawn a generation."""

    fitness: RecallFitnessConfig = field(
        default_factory=lambda: RecallFitnessConfig(
            prompts=2, context_tokens=(288,), intervals=(48, 96), price=0.5, validation_prompts=32
        )
    )
    """What candidates are judged on."""

    processes: int = 2
    """Evolutions that run side by side, one thread each."""

    test_prompts: int = 48
    """Test prompts a task and condition."""

    conditions: tuple[tuple[int, int], ...] = (
        (288, 48), (288, 96), (864, 48), (864, 96), (288, 32), (288, 144), (864, 128)
    )  # fmt: skip
    """Context tokens and interval of the final comparison: as evolved, three times longer, other intervals."""


def evolutions(config: TextV1Config) -> dict[str, EvolveConfig]:
    """Every evolution of the recipe, by name."""
    return {
        f"{kind.replace('+', '-')}-seed{seed}": EvolveConfig(
            out=config.work / f"{kind.replace('+', '-')}-seed{seed}",
            generations=config.generations,
            seed=seed,
            fitness=replace(config.fitness, statistics=tuple(kind.split("+"))),
            threads=1,
        )
        for kind in config.statistics
        for seed in config.seeds
    }


def _evolve(config: EvolveConfig) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    with (config.out / "log.txt").open("a") as log:
        run_evolution(config, Console(file=log, width=200))


def choose(runs: dict[str, EvolveConfig], fitness: RecallFitnessConfig) -> tuple[str, dict[str, dict[str, float]]]:
    """The name of the evolution that does best on validation prompts, and what each reached.

    All are judged on the same prompts with the source's statistics and the same price.
    """
    model = load_source(next(iter(runs.values())).model, torch.float32)
    reached: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        namm = NAMM.from_pretrained(run.out / "namm")
        report = RecallFitness(model, namm, replace(fitness, statistics=("source",))).validate(namm.flat, 0)
        extras = report.extras
        reached[name] = {
            "fitness": report.score, "score": extras["relative_score"], "kept": extras["kept_fraction"]
        }  # fmt: skip
    return max(reached, key=lambda name: reached[name]["fitness"]), reached


def compare(config: TextV1Config) -> list[dict[str, Any]]:
    """The comparison on test prompts, all conditions, as rows of one table."""
    table = []
    for tokens, interval in config.conditions:
        rows = text.run(
            text.TextConfig(
                namm=config.out, out=config.work / "comparison", context_tokens=(tokens,), intervals=(interval,),
                policy=("full", *RIVALS, *ALLOCATED, "namm:source", "namm:sequence"),
                prompts=config.test_prompts, threads=1,
            ),
            Console(),
        )  # fmt: skip
        for policy, task, _, _, estimate, kept, relative in text.summarise(rows):
            table.append(
                {
                    "context_tokens": tokens, "interval": interval, "policy": policy, "task": task,
                    "recall": asdict(estimate), "kept_fraction": kept, "of_full_cache": relative,
                }
            )  # fmt: skip
    return table


def write_card(config: TextV1Config, chosen: str, reached: dict[str, Any], table: Sequence[dict[str, Any]]) -> None:
    """README.md and card.json beside the weights; every figure from the rows."""
    sha = file_sha256(config.out / "model.safetensors")
    runs = evolutions(config)
    seconds = {name: _seconds(run.out) for name, run in runs.items()}
    facts = {
        "command": "python checkpoints/recipes/text_v1.py",
        "sha256": sha,
        "namm_sha256": NAMM.from_pretrained(config.out).sha256(),
        "chosen": chosen,
        "validation": reached,
        "seconds": seconds,
        "recipe": json.loads(json.dumps(asdict(config), default=str)),
        "versions": versions(("torch", "transformers", "numpy")),
        "test": list(table),
    }
    write_atomically(config.out / "card.json", json.dumps(facts, indent=1) + "\n")
    overall = [row for row in table if row["task"] == "all"]
    lines = [
        "# NAMM text-v1",
        "",
        "4172 numbers, evolved on text alone (recall tasks on the shipped `checkpoints/text/recall-llama`); no other",
        "model, modality or reward was ever seen. Made again by `python checkpoints/recipes/text_v1.py`.",
        "",
        "## How it was made",
        "",
        f"Isotropic CMA-ES, population 32, start sigma 0.2, {config.generations} generations, the mean deployed. Each",
        f"generation: {config.fitness.prompts} fresh prompts a task ({', '.join(config.fitness.tasks)}), the same",
        f"for all candidates; context of {_either(config.fitness.context_tokens)} tokens and interval of "
        f"{_either(config.fitness.intervals)} drawn.",
        f"Fitness: recall relative to the full cache on the same prompts, less {config.fitness.price} x kept fraction.",
        "Chosen by fitness on validation prompts, source statistics:",
        "",
        "| evolution | validation fitness | score of full | kept | seconds |",
        "|---|---|---|---|---|",
        *(
            f"| {name}{' (shipped)' if name == chosen else ''} | {row['fitness']:.3f} | {100 * row['score']:.1f}% "
            f"| {100 * row['kept']:.1f}% | {seconds[name]:.0f} |"
            for name, row in reached.items()
        ),
        "",
        "## On test prompts",
        "",
        f"{config.test_prompts} prompts a task and condition, from seeds and documents that neither evolution nor "
        "choice has seen.",
        "Rivals hold the same number of slots as `namm:source`, rounded up, when the question comes. Mean over tasks,",
        "95% bootstrap intervals over prompts stratified by task. Evolved at "
        f"{_either(config.fitness.context_tokens)} tokens and intervals {_either(config.fitness.intervals)}.",
        "",
        "| context | interval | policy | recall | of the full cache | kept |",
        "|---|---|---|---|---|---|",
        *(_table_line(row) for row in overall),
        "",
        *_verdict(overall),
        "",
        "Per task in `card.json`.",
        "",
        f"sha256 of model.safetensors: `{sha}`",
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in facts["versions"].items()) + ".",
    ]
    write_atomically(config.out / "README.md", "\n".join(lines) + "\n")


def _table_line(row: dict[str, Any]) -> str:
    recall = row["recall"]
    return (
        f"| {row['context_tokens']} | {row['interval']} | {row['policy']} | {100 * recall['value']:.1f}% "
        f"[{100 * recall['low']:.1f}, {100 * recall['high']:.1f}] | {100 * row['of_full_cache']:.1f}% "
        f"| {100 * row['kept_fraction']:.1f}% |"
    )


def _verdict(overall: Sequence[dict[str, Any]]) -> list[str]:
    """What the intervals say, condition by condition."""
    lines = []
    for tokens, interval in dict.fromkeys((row["context_tokens"], row["interval"]) for row in overall):
        here = {
            row["policy"]: Estimate(**row["recall"])
            for row in overall
            if (row["context_tokens"], row["interval"]) == (tokens, interval)
        }
        ours = here["namm:source"]
        behind = [name for name in RIVALS if ours.low <= here[name].high]
        said = "ahead of every rival, intervals apart" if not behind else f"NOT clearly ahead of {', '.join(behind)}"
        lines.append(f"- {tokens} tokens, interval {interval}: {said}.")
    return lines


def _either(values: Sequence[int]) -> str:
    return " or ".join(str(value) for value in values)


def _seconds(folder: Path) -> float:
    lines = (folder / "history.jsonl").read_text().splitlines()
    return float(np.sum([json.loads(line)["seconds"] for line in lines]))


def main(config: TextV1Config) -> None:
    """Evolve, choose, judge, write the card."""
    runs = evolutions(config)
    began = time.perf_counter()
    with ProcessPoolExecutor(config.processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_evolve, runs.values()))
    torch.set_num_threads(1)  # batches this small gain nothing from more
    chosen, reached = choose(runs, config.fitness)
    config.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(runs[chosen].out / "namm" / name, config.out / name)
    write_card(config, chosen, reached, compare(config))
    print(f"text-v1 is {chosen}; done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(TextV1Config))
