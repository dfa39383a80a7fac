"""Evolves on from a hindsight start, on a real model and a small one together: `python checkpoints/recipes/text_v3.py`.

Fitness is the likelihood of the right answer beside the full cache, less a price on what is kept
(`evaluations.evolution.likelihood_fitness`). What is saved is the better of the start and the best mean, both on the
same validation prompts, so that evolution cannot make it worse than where it began but by the luck of those prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from checkpoints.recipes.commands import command_of
from checkpoints.recipes.hindsight import start_of
from checkpoints.recipes.sized import CALIBRATION, CALIBRATION_SEED, calibrated, size_found
from evaluations.evolution.likelihood_fitness import LikelihoodFitness, LikelihoodSource
from evaluations.evolution.searches import make_optimizer
from evaluations.evolution.source import load_source
from evaluations.hindsight.equal_size import EqualSize
from evaluations.rows.provenance import versions
from evaluations.tasks.lessons import DOCUMENTS, Course, draw_lessons
from modalities.pretrained.tokenizer import read_tokenizer
from namm import NAMM
from namm.errors import ConfigError
from namm.evolution.history import HISTORY_FILE
from namm.evolution.loop import EvolutionConfig, EvolutionResult, evolve
from namm.files import file_sha256, write_atomically

REAL = Course(
    tasks=("ruler/niah_single_1", "ruler/niah_multikey_1", DOCUMENTS, "ruler/vt", "ruler/niah_multivalue", DOCUMENTS),
    lengths=(512, 640), intervals=(64, 128), chunk=64,
)  # fmt: skip
SMALL = Course(tasks=("pairs", "passkey", "copy", "variables"), lengths=(288,), intervals=(48, 96), chunk=48)
SIZED = replace(REAL, lengths=(576, 768), intervals=(64,))
"""At the longer interval the newest tokens alone make up most of a quarter."""
SIZING_SEED = 600_000
"""Of the prompts on which candidates get their size, beyond all that are drawn to train."""
SIZING_PROMPTS = 3
PLACES = ("out", "work")
"""Settings that say where files go, and change nothing in them."""
UNSAID = (*PLACES, "generations")
"""Settings with which a run may go on that began with others."""
ASKED = "asked.json"
"""In the folder of the run: the settings with which it began."""


@dataclass(frozen=True)
class TextV3Config:
    """The evolution."""

    start: Path = Path("checkpoints/namm/text-v4")
    """A NAMM that was trained by hindsight, or further."""

    out: Path = Path("runs/text-v3/namm")
    """Where the better of start and best mean goes."""

    work: Path = Path("runs/text-v3/evolution")
    """The run; the same command continues it."""

    real: str | None = "smollm2"
    """A real model: a folder or a Hub id; None evolves on the small one alone."""

    small: str = "checkpoints/text/recall-llama"
    """The small one."""

    generations: int = 60
    population: int = 16
    sigma: float = 0.02
    seed: int = 0
    price: float = 0.3
    """Likelihood ratio that a whole context is worth."""

    keep: float | None = None
    """Part of the tokens that every candidate keeps on each source, its threshold being moved there, at one interval.
    None: thresholds are evolved like all other numbers, and the price decides."""

    real_prompts: int = 1
    """A generation."""

    small_prompts: int = 4
    """A generation."""

    validation: int = 6
    """Prompts of each source."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the sources; some processors are four times faster in bfloat16."""


def sources_of(config: TextV3Config) -> list[LikelihoodSource]:
    """Who is asked what."""
    dtype = getattr(torch, config.dtype)
    courses = [REAL, SMALL] if config.keep is None else [SIZED, replace(SMALL, intervals=SMALL.intervals[:1])]
    small = LikelihoodSource(
        load_source(config.small, dtype), None, courses[1], config.small_prompts, 4 * config.validation
    )
    if config.real is None:
        return [small]
    model = load_source(config.real, dtype)
    return [
        LikelihoodSource(model, read_tokenizer(config.real), courses[0], config.real_prompts, config.validation),
        small,
    ]


def size_of(source: LikelihoodSource, start: NAMM, keep: float) -> EqualSize:
    """How candidates are given their size on a source, found on prompts of their own."""
    lessons = draw_lessons(source.course, source.tokenizer, SIZING_PROMPTS, SIZING_SEED)
    return EqualSize(source.model, lessons, start, size_found(start, source.model, lessons, keep).threshold)


def begun_as(config: TextV3Config, start: NAMM) -> None:
    """Writes down what the run is asked, or sees that it was asked the same before.

    Raises:
        ConfigError: It was asked something else: generations of two fitnesses are no evolution.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in UNSAID}
    asked = json.loads(json.dumps(settings | {"start": start.sha256()}, default=str))
    path = config.work / ASKED
    if path.exists():
        before = json.loads(path.read_text())
        if before != asked:
            found = [
                f"{name} {asked[name]!r}, not {before.get(name)!r}" for name in asked if before.get(name) != asked[name]
            ]
            raise ConfigError(
                f"{config.work}: expected the settings with which this run began, found {', '.join(found)}; repeat "
                "them, or choose another --work."
            )
    config.work.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asked, indent=1) + "\n")


def main(config: TextV3Config) -> None:
    """Evolves what is left, saves the better NAMM and what decided it.

    Raises:
        ConfigError: The start was trained under other statistics than each sequence's, or the run had other settings.
    """
    torch.set_num_threads(1)
    start = start_of(config.start)
    begun_as(config, start)
    sources = sources_of(config)
    sizes = None if config.keep is None else [size_of(source, start, config.keep).sized for source in sources]
    fitness = LikelihoodFitness(sources, start, config.price, sizes=sizes)
    search = EvolutionConfig(
        generations=config.generations,
        seed=config.seed,
        validate_every=5,
        noise_every=0,
        search=make_optimizer("cmaes-isotropic", config.population, config.sigma, False),
    )

    def told(row: Mapping[str, Any], result: EvolutionResult) -> None:
        shown = {"generation": row["generation"], "fitness": row["fitness"]["mean"], "seconds": row["seconds"]}
        print(json.dumps(shown | {key: row[key] for key in ("extras", "validation")}, default=float), flush=True)

    result = evolve(fitness, start.flat, search, config.work, validate=fitness.validate, callback=told)
    before = fitness.validate(start.flat, 0)
    better = result.best_score is not None and result.best_score > before.score
    chosen = NAMM(replace(start.config), result.best_mean if better else start.flat, start.statistics)
    size = None
    if config.keep is not None and better:  # the numbers' own threshold was not used
        source = fitness.sources[0]
        course = SMALL if source.tokenizer is None else CALIBRATION
        lessons = draw_lessons(replace(course, intervals=course.intervals[:1]), source.tokenizer, 2, CALIBRATION_SEED)
        chosen, found = calibrated(chosen, source.model, lessons, config.keep)
        size = found._asdict()
    chosen.save_pretrained(config.out)
    asked = {name: value for name, value in asdict(config).items() if name not in PLACES}
    history = [json.loads(line) for line in (config.work / HISTORY_FILE).read_text().splitlines()]
    card = config.start / "card.json"
    again = replace(config, generations=result.best_generation if better else result.generation)  # the same choice
    facts = {
        "seed": config.seed,
        "sha256": file_sha256(config.out / "model.safetensors"),
        "namm_sha256": chosen.sha256(),
        "params": chosen.scorer.params,
        "command": command_of("checkpoints/recipes/text_v3.py", again, PLACES),
        "evolution": json.loads(json.dumps(asked, default=str)) | {"generations": result.generation},
        "courses": [asdict(source.course) for source in sources],
        "start_sha256": start.sha256(),
        "start_validation": {"score": before.score, **before.extras},
        "best_generation": result.best_generation,
        "validations": {row["generation"]: row["validation"] for row in history if row["validation"]},
        "evolved_is_better": better,
        "size": size,
        "seconds": sum(row["seconds"] for row in history),
        "start": json.loads(card.read_text()) if card.exists() else None,
        "versions": versions(("torch", "transformers", "numpy")),
    }
    write_atomically(config.out / "card.json", json.dumps(facts, indent=1) + "\n")
    print(f"start {before.score:.4f}, best {result.best_score}: saved {'the evolved' if better else 'the start'}")


if __name__ == "__main__":
    main(tyro.cli(TextV3Config, description=(__doc__ or "").partition("\n\n")[0]))
