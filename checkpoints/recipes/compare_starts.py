"""Is a start by hindsight worth its cost? `python checkpoints/recipes/compare_starts.py`.

Three ways to a NAMM for the shipped small Llama at the same processor time, each with several seeds: evolution from
zero, training by hindsight alone, and training by hindsight with evolution for what is left of the time. Recordings
count as part of hindsight. All are judged on prompts that none has seen: by the fitness that evolution maximises, at
the size that each chooses, and by likelihood at a quarter of the tokens, where sizes are found without labels on
prompts of their own. docs/hindsight.md has the table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from checkpoints.recipes.hindsight import SMALL as RECORDED
from checkpoints.recipes.sized import calibrated
from checkpoints.recipes.text_v3 import SMALL
from checkpoints.recipes.text_v3 import TextV3Config as Evolution
from evaluations.analysis.estimates import Estimate, bootstrap
from evaluations.analysis.matrix_cells import over_runs
from evaluations.evolution.likelihood_fitness import LikelihoodFitness, LikelihoodSource, asked_under
from evaluations.evolution.searches import make_optimizer
from evaluations.evolution.source import load_source
from evaluations.hindsight.shelf import Shelf
from evaluations.hindsight.shown import spectrum_statistics
from evaluations.hindsight.training import TrainingConfig, fresh, shifted, train
from evaluations.tasks.lessons import draw_lessons
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.evolution.loop import EvolutionConfig, evolve
from namm.files import write_atomically
from namm.policies import make_policy

ZERO, HINDSIGHT, BOTH = "evolution from zero", "hindsight", "hindsight, then evolution"
SIZED = replace(SMALL, intervals=(48,))
"""What sizes are found on: validation prompts at one interval."""
TEST_SEED, SIZING_PROMPTS, KEEP = 7, 4, 0.25
CONSTANTS = NAMMConfig(
    signals=("spectrogram", "key_difference"), interval=SIZED.intervals[0], trained_statistics="sequence"
)
"""Of every NAMM here; under these statistics those that a checkpoint holds are not read."""
COST = "seconds.json"
"""Beside a NAMM of hindsight: the processor time that it took."""


@dataclass(frozen=True)
class StartsConfig:
    """How long, how often."""

    out: Path = Path("runs/compare-starts")
    """Recordings, NAMMs, evolutions and the table; what is there is not made again."""

    source: str = Evolution.small
    """The small Llama."""

    seconds: float = 600.0
    """Processor time of each way and seed."""

    seeds: tuple[int, ...] = (0, 1, 2)
    recorded: int = 40
    """Prompts that hindsight learns from."""

    test: int = 48
    """Prompts that judge."""

    price: float = Evolution.price
    """Likelihood ratio that a whole context is worth."""

    sigma_from_zero: float = 0.2
    """First step of the search, as `namm-evolve` has it."""

    sigma: float = Evolution.sigma
    """The same from a hindsight start."""

    population: int = 16
    training: TrainingConfig = field(default_factory=TrainingConfig)


def hindsight(config: StartsConfig, seed: int) -> tuple[NAMM, float]:
    """A NAMM trained by hindsight at the wanted size, and the processor time that it took, recordings included."""
    shelf = Shelf(config.source, RECORDED, config.recorded, 0, config.out / "recordings")
    spent, began = config.out / "recordings" / "seconds.json", time.process_time()
    shelf.fill()
    if not spent.exists():
        write_atomically(spent, json.dumps(time.process_time() - began))
    began = time.process_time()
    recorded = [shelf.recordings()]
    namm = fresh(CONSTANTS, spectrum_statistics(recorded))
    namm = NAMM(CONSTANTS, train(namm, recorded, config.training, seed).flat, namm.statistics)
    lessons = draw_lessons(SIZED, None, SIZING_PROMPTS, seed, "validation")
    namm, _ = calibrated(namm, load_source(config.source, torch.float32), lessons, KEEP)
    return namm, float(json.loads(spent.read_text())) + time.process_time() - began


def evolved(config: StartsConfig, start: NAMM, sigma: float, seconds: float, seed: int, folder: Path) -> NAMM:
    """What evolution makes of a start in so much processor time: the mean with the best validation, start included."""
    source = LikelihoodSource(load_source(config.source, torch.float32), None, SMALL, 4, 12)
    fitness = LikelihoodFitness([source], start, config.price)
    search = make_optimizer("cmaes-isotropic", config.population, sigma)
    began, generations = time.process_time(), 0
    best = (fitness.validate(start.flat, 0).score, start.flat)
    while not generations or time.process_time() - began < seconds:
        generations += 5
        told = EvolutionConfig(generations=generations, seed=seed, validate_every=5, noise_every=0, search=search)
        result = evolve(fitness, start.flat, told, folder, validate=fitness.validate)
        assert result.best_score is not None  # the last generation was validated
        best = max(best, (result.best_score, result.best_mean), key=lambda pair: pair[0])
    write_atomically(folder / "generations.json", json.dumps(generations))
    return NAMM(start.config, best[1], start.statistics)


def made(config: StartsConfig, way: str, seed: int) -> NAMM:
    """The NAMM of a way and seed, made if it is not there.

    Raises:
        ConfigError: Hindsight takes all of the time.
    """
    place = config.out / f"{_slug(way)}-seed{seed}"
    if (place / "config.json").is_file():
        return NAMM.from_pretrained(place)
    place.mkdir(parents=True, exist_ok=True)
    if way == HINDSIGHT:
        namm, cost = hindsight(config, seed)
        write_atomically(place / COST, json.dumps(cost))
    elif way == BOTH:
        start = made(config, HINDSIGHT, seed)
        left = config.seconds - float(json.loads((config.out / f"{_slug(HINDSIGHT)}-seed{seed}" / COST).read_text()))
        if left <= 0.0:
            raise ConfigError(
                f"Hindsight alone took {config.seconds - left:.0f} s: expected more --seconds, found "
                f"{config.seconds:g}; give more, and another --out."
            )
        namm = evolved(config, start, config.sigma, left, seed, place / "evolution")
    else:
        namm = evolved(config, NAMM(CONSTANTS), config.sigma_from_zero, config.seconds, seed, place / "evolution")
    namm.save_pretrained(place)
    return namm


def _slug(way: str) -> str:
    return way.replace(", ", "-").replace(" ", "-")


def judged(config: StartsConfig, namm: NAMM, seed: int) -> dict[str, list[float]]:
    """By test prompt: fitness and kept fraction at the NAMM's own size, and likelihood ratio and kept at a quarter."""
    model = load_source(config.source, torch.float32)
    lessons = draw_lessons(SMALL, None, config.test, TEST_SEED, "test")
    full = [float(asked_under(model, make_policy("full"), lesson).log_likelihood[0]) for lesson in lessons]
    sizing = draw_lessons(SIZED, None, SIZING_PROMPTS, 100 + seed, "validation")
    _, size = calibrated(namm, model, sizing, KEEP, 8)
    found: dict[str, list[float]] = {name: [] for name in ("fitness", "kept", "ratio at 25%", "kept at 25%")}
    own, quarter = ("fitness", "kept"), ("ratio at 25%", "kept at 25%")
    for lesson, best in zip(lessons, full, strict=True):
        for judge, (score, held) in ((namm, own), (shifted(namm, size.threshold), quarter)):
            policy = make_policy("namm", namm=judge, interval=lesson.interval, statistics="sequence")
            answer = asked_under(model, policy, lesson)
            ratio = float((answer.log_likelihood[0] - best).clamp_max(0.0).exp())
            kept = float(answer.slots[0]) / answer.context_tokens
            found[score].append(ratio - config.price * kept if score == "fitness" else ratio)
            found[held].append(kept)
    return found


def over_prompts_and_runs(runs: Sequence[Sequence[float]]) -> Estimate:
    """Mean over runs, its interval over prompts and runs."""
    over_prompts = bootstrap([np.mean(runs, axis=0).tolist()], 0)
    return over_runs(over_prompts, [float(np.mean(run)) for run in runs])


def table(found: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> str:
    """Markdown, a line a way."""
    lines = [
        "| | fitness at its own size | kept | likelihood beside the full cache's, sized to 25% | kept |",
        "|---|---|---|---|---|",
    ]
    for way, runs in found.items():
        cells = []
        for name in ("fitness", "kept", "ratio at 25%", "kept at 25%"):
            digits = 0 if name.startswith("kept") else 3
            scale = 100.0 if name.startswith("kept") else 1.0
            estimate = over_prompts_and_runs([[scale * value for value in run[name]] for run in runs])
            cells.append(f"{estimate.value:.0f}%" if scale > 1 else estimate.text(digits))
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    for way, runs in found.items():
        if way != BOTH:
            pairs = zip(found[BOTH], runs, strict=True)
            leads = [np.subtract(ours["ratio at 25%"], theirs["ratio at 25%"]).tolist() for ours, theirs in pairs]
            lines.append(f"\n{BOTH}, minus {way}: {over_prompts_and_runs(leads).text(3, '+')} at 25%.")
    return "\n".join(lines) + "\n"


def main(config: StartsConfig) -> None:
    """Makes what is missing, judges everything, writes the table.

    Raises:
        ConfigError: The folder holds a comparison with other settings, or hindsight takes all of the time.
    """
    torch.set_num_threads(1)
    settings, path = json.loads(json.dumps(asdict(config), default=str)), config.out / "config.json"
    if path.exists() and json.loads(path.read_text()) | {"seeds": 0} != settings | {"seeds": 0}:
        raise ConfigError(f"{config.out} holds a comparison with other settings; choose another --out.")
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(settings, indent=1) + "\n")
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in (ZERO, HINDSIGHT, BOTH)}
    for seed in config.seeds:
        for way, runs in found.items():
            path = config.out / f"judged-{_slug(way)}-{seed}.json"
            if not path.exists():
                namm = made(config, way, seed)
                write_atomically(path, json.dumps(judged(config, namm, seed) | {"sha256": namm.sha256()}) + "\n")
            runs.append(json.loads(path.read_text()))
            shown = {name: round(float(np.mean(runs[-1][name])), 3) for name in ("fitness", "kept", "ratio at 25%")}
            print(f"seed {seed}, {way}: {shown}", flush=True)
    text = table(found)
    write_atomically(config.out / "table.md", text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(StartsConfig, description=(__doc__ or "").partition("\n\n")[0]))
