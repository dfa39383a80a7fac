"""Evolves the NAMM that ships as text-v1, on text alone: `python checkpoints/recipes/text_v1.py`.

Several evolutions differ in seed and in whose feature statistics they see; the one that does best on validation prompts
is shipped, then judged once on test prompts that nothing was chosen on: at the lengths and intervals it was evolved
on, on contexts three times longer, and at intervals it never saw. Every part resumes where it was killed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
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
from evaluations.analysis.estimates import Estimate
from evaluations.evolution.recall_fitness import RecallFitness, RecallFitnessConfig
from evaluations.evolve import EvolveConfig, load_source
from evaluations.evolve import run as run_evolution
from evaluations.rows.provenance import versions
from evaluations.tasks.recall.tasks import TASKS
from namm import NAMM
from namm.features import StatisticsMode
from namm.files import file_sha256, write_atomically

SHIPPED = Path(checkpoints.__file__).parent
RIVALS = ("window", "random", "l2_norm", "h2o", "h2o_age")
ALLOCATED = ("window@heads", "random@heads")


@dataclass(frozen=True)
class Variant:
    """One evolution of the recipe."""

    statistics: tuple[StatisticsMode, ...] = ("source",)
    """Feature statistics seen while evolving; one is drawn a generation."""

    price: float = 0.5
    """Fitness lost per kept fraction."""

    budget_fraction: float | None = None
    """Cap on each head while evolving."""

    generations: int = 150
    """Generations."""

    seed: int = 0
    """Seed of candidates and prompts."""

    sigma: float = 0.2
    """Initial step size."""

    validation_prompts: int = 24
    """Prompts a task and interval in each validation of the mean."""

    after: str | None = None
    """Variant whose result this one starts from."""


VARIANTS = {
    "free": Variant(validation_prompts=32),
    "free-mixed-statistics": Variant(statistics=("source", "sequence"), validation_prompts=32),
    "capped": Variant(price=0.3, budget_fraction=0.3, generations=160),
    "capped-refined": Variant(price=0.05, budget_fraction=0.3, generations=45, sigma=0.1, after="capped"),
}
"""Without a cap the size holds on average over heads only; with one, in every head."""


@dataclass(frozen=True)
class TextV1Config:
    """The recipe; defaults are what was shipped."""

    out: Path = SHIPPED / "namm" / "text-v1"
    """Where the chosen NAMM and its card go."""

    work: Path = Path("runs/text-v1")
    """Where the evolutions and the comparison lie."""

    fitness: RecallFitnessConfig = field(
        default_factory=lambda: RecallFitnessConfig(
            prompts=2, context_tokens=(288,), intervals=(48, 96), price=0.5, validation_prompts=32
        )
    )
    """What the choice between evolutions is made on; each evolves on the same but for its variant's settings."""

    least_score: float = 0.96
    """Evolutions below this fraction of the full cache's score on validation prompts are not shipped."""

    processes: int = 2
    """Evolutions that run side by side, one thread each."""

    test_prompts: int = 48
    """Test prompts a task and condition."""

    conditions: tuple[tuple[int, int], ...] = ((288, 48), (288, 32), (288, 144), (864, 96), (864, 128))
    """Context tokens and interval of the final comparison: as evolved, three times longer, other intervals."""


def evolutions(config: TextV1Config) -> dict[str, EvolveConfig]:
    """Every evolution of the recipe, by name."""
    return {
        name: EvolveConfig(
            out=config.work / name,
            generations=variant.generations,
            seed=variant.seed,
            fitness=replace(
                config.fitness,
                statistics=variant.statistics,
                price=variant.price,
                budget_fraction=variant.budget_fraction,
                validation_prompts=variant.validation_prompts,
            ),
            threads=1,
            sigma=variant.sigma,
            start=None if variant.after is None else config.work / variant.after / "namm",
        )
        for name, variant in VARIANTS.items()
    }


def _evolve(config: EvolveConfig) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    with (config.out / "log.txt").open("a", encoding="utf-8") as log:
        run_evolution(config, Console(file=log, width=200))


def choose(
    runs: dict[str, EvolveConfig], fitness: RecallFitnessConfig, least_score: float
) -> tuple[str, dict[str, dict[str, float]]]:
    """The name of the evolution that does best on validation prompts, and what each reached.

    All are judged on the same prompts with the source's statistics and the same price, each under the cap that it was
    evolved with; those below the least score come last.
    """
    model = load_source(next(iter(runs.values())).model, torch.float32)
    reached: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        namm, cap = NAMM.from_pretrained(run.out / "namm"), run.fitness.budget_fraction
        report = RecallFitness(model, namm, replace(fitness, statistics=("source",), budget_fraction=cap)).validate(
            namm.flat, 0
        )
        extras = report.extras
        reached[name] = {
            "fitness": report.score, "score": extras["relative_score"], "kept": extras["kept_fraction"]
        }  # fmt: skip
    return max(reached, key=lambda name: (reached[name]["score"] >= least_score, reached[name]["fitness"])), reached


def compare(config: TextV1Config) -> list[dict[str, Any]]:
    """The comparison on test prompts, all conditions, as rows of one table."""
    table = []
    for tokens, interval in config.conditions:
        rows = text.run(
            text.TextConfig(
                namm=config.out, out=config.work / "comparison", context_tokens=(tokens,), intervals=(interval,),
                policy=("full", *RIVALS, *ALLOCATED, "namm:source"),
                tasks=tuple(TASKS), prompts=config.test_prompts, threads=1, example_tokens=0, wandb="disabled",
            ),
            Console(),
        )  # fmt: skip
        table += tabulate(rows, tokens, interval)
    return table


def tabulate(rows: Sequence[dict[str, Any]], tokens: int, interval: int) -> list[dict[str, Any]]:
    """The rows of one condition as lines of the table; the NAMM's mean line says what each layer and head kept."""
    table = []
    ours = [row["metrics"]["head_slots"] for row in rows if row["policy"] == "namm:source"]
    for policy, task, _, _, estimate, kept, relative in text.summarise(rows):
        line = {
            "context_tokens": tokens, "interval": interval, "policy": policy, "task": task,
            "recall": asdict(estimate), "kept_fraction": kept, "of_full_cache": relative,
        }  # fmt: skip
        if policy == "namm:source" and task == "all":
            line["kept_by_head"] = (np.mean(ours, axis=0) / tokens).round(3).tolist()
        table.append(line)
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
        "recipe": {
            name: value
            for name, value in json.loads(json.dumps(asdict(config), default=str)).items()
            if name not in ("out", "work")
        },
        "evolutions": {name: asdict(variant) for name, variant in VARIANTS.items()},
        "versions": versions(("torch", "transformers", "numpy")),
        "test": list(table),
    }
    write_atomically(config.out / "card.json", json.dumps(facts, indent=1) + "\n")
    lines = [
        "# NAMM text-v1",
        "",
        "4172 numbers, evolved on text alone (recall tasks on the shipped `checkpoints/text/recall-llama`); no other",
        "model, modality or reward was ever seen. Made again by `python checkpoints/recipes/text_v1.py`.",
        "",
        *_how(config, runs, chosen, reached, seconds),
        *_on_test_prompts(config, [row for row in table if row["task"] == "all"]),
        f"sha256 of model.safetensors: `{sha}`",
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in facts["versions"].items()) + ".",
    ]
    write_atomically(config.out / "README.md", "\n".join(lines) + "\n")


def _how(
    config: TextV1Config,
    runs: Mapping[str, EvolveConfig],
    chosen: str,
    reached: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> list[str]:
    """What was evolved, and which of it was chosen."""
    return [
        "## How it was made",
        "",
        "Isotropic CMA-ES, population 32, start sigma 0.2, the mean with the best validation deployed. Each",
        f"generation: {config.fitness.prompts} fresh prompts a task ({', '.join(config.fitness.tasks)}), the same for",
        f"all candidates; contexts of {_either(config.fitness.context_tokens)} tokens, interval "
        f"{_either(config.fitness.intervals)} drawn.",
        "Fitness: recall relative to the full cache on the same prompts, less a price times kept fraction. Evolutions:",
        "",
        *(
            f"- `{name}`: statistics {_either(run.fitness.statistics)}, price {run.fitness.price}, cap on every head "
            f"{run.fitness.budget_fraction or 'none'}, {run.generations} generations, sigma {run.sigma}, "
            f"seed {run.seed}" + (f", from `{VARIANTS[name].after}`" if VARIANTS[name].after else "")
            for name, run in runs.items()
        ),
        "",
        f"Chosen by fitness on validation prompts at price {config.fitness.price}, each under its own cap, among those "
        f"with at",
        f"least {config.least_score:.0%} of the full cache's score:",
        "",
        "| evolution | validation fitness | score of full | kept | seconds |",
        "|---|---|---|---|---|",
        *(
            f"| {name}{' (shipped)' if name == chosen else ''} | {row['fitness']:.3f} | {100 * row['score']:.1f}% "
            f"| {100 * row['kept']:.1f}% | {seconds[name]:.0f} |"
            for name, row in reached.items()
        ),
        "",
    ]


def _on_test_prompts(config: TextV1Config, overall: Sequence[dict[str, Any]]) -> list[str]:
    """What the chosen one reaches where neither evolution nor choice has looked."""
    return [
        "## On test prompts",
        "",
        f"{config.test_prompts} prompts a task and condition, from seeds and documents that neither evolution nor "
        "choice has seen.",
        "Rivals hold the same number of slots as `namm:source`, rounded up, when the question comes;",
        "`@heads` gives them its size in each layer and head: what is left of its lead there is its choice of tokens,",
        "not of heads. Mean over tasks,",
        "95% bootstrap intervals over prompts stratified by task. Evolved at "
        f"{_either(config.fitness.context_tokens)} tokens and intervals {_either(config.fitness.intervals)}.",
        "",
        "| context | interval | policy | recall | of the full cache | kept |",
        "|---|---|---|---|---|---|",
        *(_table_line(row) for row in overall),
        "",
        *_verdict(overall),
        "",
        "What it keeps, in % of the context, by layer and KV head, mean over tasks:",
        "",
        *(
            f"- {row['context_tokens']} tokens, interval {row['interval']}: "
            + "; ".join(
                f"layer {index}: " + ", ".join(f"{100 * head:.0f}" for head in heads)
                for index, heads in enumerate(row["kept_by_head"])
            )
            for row in overall
            if "kept_by_head" in row
        ),
        "",
        "Per task in `card.json`.",
        "",
    ]


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
        behind = [name for name in (*RIVALS, *ALLOCATED) if ours.low <= here[name].high]
        said = "ahead of every rival, intervals apart" if not behind else f"NOT clearly ahead of {', '.join(behind)}"
        lines.append(f"- {tokens} tokens, interval {interval}: {said}.")
    return lines


def _either(values: Sequence[object]) -> str:
    return " or ".join(str(value) for value in values)


def _seconds(folder: Path) -> float:
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return float(np.sum([json.loads(line)["seconds"] for line in lines]))


def main(config: TextV1Config) -> None:
    """Evolve, choose, judge, write the card."""
    runs = evolutions(config)
    began = time.perf_counter()
    with ProcessPoolExecutor(config.processes, mp_context=get_context("spawn")) as pool:
        for stage in (False, True):  # what starts from nothing, then what starts from its result
            list(pool.map(_evolve, [run for run in runs.values() if (run.start is not None) == stage]))
    torch.set_num_threads(1)  # batches this small gain nothing from more
    chosen, reached = choose(runs, config.fitness, config.least_score)
    config.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(runs[chosen].out / "namm" / name, config.out / name)
    write_card(config, chosen, reached, compare(config))
    print(f"text-v1 is {chosen}; done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    from namm.terminal import any_terminal

    with any_terminal():
        main(tyro.cli(TextV1Config))
