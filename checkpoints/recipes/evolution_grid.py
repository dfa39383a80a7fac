"""Small evolutions side by side: arms x seeds on the real recall fitness, each last mean judged on prompts apart.

Every arm of a seed sees the same prompts in the same generations and scores equally many candidates. A cell is a folder
that continues where it was killed; seeds come before arms, so that what is there can be compared at any time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from evaluations.analysis.estimates import Estimate
from evaluations.evolution.recall_fitness import RecallFitness, RecallFitnessConfig, source_statistics
from evaluations.evolve import EvolveConfig, load_source
from evaluations.rows.provenance import versions
from namm import NAMM, NAMMConfig
from namm.calibration import with_statistics
from namm.evolution.history import read_rows
from namm.evolution.loop import EvolutionConfig, evolve
from namm.evolution.search import SearchConfig
from namm.files import write_atomically


@dataclass(frozen=True)
class Arm:
    """One way to evolve."""

    search: SearchConfig
    namm: NAMMConfig
    fitness: RecallFitnessConfig


@dataclass(frozen=True)
class Grid:
    """What all arms have in common."""

    out: Path
    """One folder an arm and seed; cells.json and table.md."""

    seeds: int = 3
    """Evolutions of each arm."""

    generations: int = 20
    """Generations of each evolution."""

    judged_on: int = 96
    """Validation prompts a task and interval that the last mean is judged on; no candidate has seen them."""

    model: str = EvolveConfig.model
    """Source: a folder or a Hugging Face Hub id."""


SMALL = RecallFitnessConfig(
    tasks=("pairs",), prompts=4, context_tokens=(128,), intervals=(32, 48), price=0.5, validation_prompts=24
)
"""Under a second a generation of 32 candidates on one idle core."""


def run(grid: Grid, arms: Mapping[str, Arm]) -> dict[str, list[dict[str, float]]]:
    """Runs what is missing and gives what each seed of each arm came to: fitness, score, kept fraction.

    Args:
        grid: Where and how long.
        arms: By name.
    """
    torch.set_num_threads(1)  # batches this small gain nothing from more
    model = load_source(grid.model, torch.bfloat16)
    grid.out.mkdir(parents=True, exist_ok=True)
    cells: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for seed in range(grid.seeds):
        for name, arm in arms.items():
            cells[name].append(_cell(grid, arm, seed, model, grid.out / f"{name}-{seed}"))
            content = {"grid": asdict(grid), "arms": {key: asdict(value) for key, value in arms.items()}}
            content |= {"cells": cells, "versions": versions(("torch", "transformers", "numpy"))}
            write_atomically(grid.out / "cells.json", json.dumps(content, indent=1, default=str) + "\n")
            print(f"{name} seed {seed}: {cells[name][-1]}", flush=True)
    return cells


def _cell(grid: Grid, arm: Arm, seed: int, model: Any, folder: Path) -> dict[str, float]:
    done = folder / "judged.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    fitness = arm.fitness
    namm = NAMM(arm.namm)
    namm = with_statistics(
        namm, source_statistics(model, namm, fitness.tasks, max(fitness.context_tokens), min(fitness.intervals))
    )
    config = EvolutionConfig(generations=grid.generations, seed=seed, search=arm.search)
    score = RecallFitness(model, namm, fitness)
    mean = evolve(score, namm.flat, config, folder, validate=score.validate).mean
    report = RecallFitness(model, namm, replace(fitness, validation_prompts=grid.judged_on)).validate(mean, 0)
    rows = read_rows(folder)
    judged = {
        "fitness": report.score,
        "score": report.extras["relative_score"],
        "kept": report.extras["kept_fraction"],
        "sigma": rows[-1]["search"]["sigma"],
        "axis_ratio": rows[-1]["search"]["axis_ratio"],
        "seconds": math.fsum(row["seconds"] for row in rows),
    }
    write_atomically(done, json.dumps(judged) + "\n")
    return judged


def compare(grid: Grid, arms: Mapping[str, Arm], baseline: str) -> None:
    """Runs what is missing, prints the table of all arms and writes it beside the evolutions."""
    text = table(run(grid, arms), baseline)
    write_atomically(grid.out / "table.md", text)
    print(text)


def interval(values: Sequence[float]) -> Estimate:
    """The mean of a few seeds with its 95% interval (Student's t: a bootstrap of three values is too narrow)."""
    numbers = np.asarray(values, dtype=np.float64)
    value = float(numbers.mean())
    if len(numbers) < 2:
        return Estimate(value, -math.inf, math.inf)
    half = float(stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    return Estimate(value, value - half, value + half)


def table(cells: Mapping[str, Sequence[Mapping[str, float]]], baseline: str) -> str:
    """Every arm in Markdown, best first, and its paired difference from one of them over seeds."""
    lines = [
        f"| arm | validation fitness | minus {baseline} | score of full | kept | sigma | axis ratio | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    means = {name: interval([cell["fitness"] for cell in found]) for name, found in cells.items() if found}
    for name in sorted(means, key=lambda name: -means[name].value):
        found = cells[name]
        pairs = zip(found, cells[baseline], strict=False)
        difference = interval([mine["fitness"] - theirs["fitness"] for mine, theirs in pairs])
        average = {key: float(np.mean([cell[key] for cell in found])) for key in found[0]}
        lines.append(
            f"| {name} | {means[name].text(3)} | {'' if name == baseline else difference.text(3, '+')} "
            f"| {average['score']:.3f} | {average['kept']:.3f} | {average['sigma']:.3f} | {average['axis_ratio']:.2f} "
            f"| {average['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"
