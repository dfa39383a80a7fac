"""Trains a NAMM to foresee what will matter, by gradient: `python checkpoints/recipes/hindsight.py --real smollm2`.

The start that `namm-evolve --start` takes. Prompts of a real model and of the shipped small one are recorded once: what
a NAMM sees at updates, and what each token turns out to be worth to the answer. Each seed then draws two thirds of the
prompts, trains on them, records some of them again under what it has become, because a cache from which tokens are gone
looks different, trains on, and at last moves its threshold to the wanted size on prompts it has not seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro

import checkpoints
from evaluations.evolution.source import load_source
from evaluations.hindsight.recording import Recording, seen_under
from evaluations.hindsight.shelf import UPDATES, Shelf
from evaluations.hindsight.training import TrainingConfig, caught, fresh, scored, shifted, spectrum_statistics, train
from evaluations.rows.provenance import versions
from evaluations.rows.results import file_sha256
from evaluations.tasks.lessons import DOCUMENTS, Course, Lesson, draw_lessons
from modalities.pretrained.tokenizer import read_tokenizer
from namm import NAMM, NAMMConfig
from namm.files import write_atomically

SHIPPED = Path(checkpoints.__file__).parent
REAL = Course(
    tasks=(
        "ruler/niah_single_1", DOCUMENTS, "ruler/niah_multikey_1", "ruler/vt", DOCUMENTS, "ruler/niah_single_2",
        "ruler/niah_multivalue", DOCUMENTS,
    ),
    lengths=(512, 640, 768), intervals=(64, 128, 256), chunk=64,
)  # fmt: skip
"""What a real model is shown; the other tasks of RULER stay unseen."""
SMALL = Course(tasks=("pairs", "passkey", "copy", "variables"), lengths=(288, 432), intervals=(48, 96, 144), chunk=48)
"""What the shipped recall-llama is shown."""
CALIBRATION = Course(
    tasks=("ruler/niah_multikey_1", DOCUMENTS, "ruler/vt"), lengths=(768,), intervals=(64,), chunk=64
)  # fmt: skip
"""What the threshold is moved on: one interval, at longer ones the newest tokens make up most of what is kept."""
CALIBRATION_SEED = 900
"""Of the prompts on which the threshold is moved."""


@dataclass(frozen=True)
class HindsightConfig:
    """The recipe."""

    out: Path = Path("runs/hindsight/namm")
    """Where NAMMs and cards go, in a folder `seed-N` each."""

    work: Path = Path("runs/hindsight")
    """Where recordings lie; what is there is not recorded again."""

    real: str = "smollm2"
    """A real model: a folder or a Hub id."""

    small: str = str(SHIPPED / "text" / "recall-llama")
    """The small source, which reads recall tasks."""

    signals: tuple[str, ...] = ("spectrogram", "key_difference")
    """What the NAMM reads."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A NAMM each: its share of the prompts, its first numbers, its order."""

    real_prompts: int = 24
    small_prompts: int = 40

    again: int = 6
    """Prompts of each source that are recorded again under the NAMM itself."""

    keep: float = 0.25
    """Wanted kept fraction after an update of the real model, at an interval of 64."""

    calibration: int = 3
    """Prompts on which the threshold is moved."""

    workers: int = 1
    """Processes that record."""

    training: TrainingConfig = field(default_factory=TrainingConfig)


def shelves_of(config: HindsightConfig) -> list[Shelf]:
    """The recordings of both sources."""
    return [
        Shelf(config.real, REAL, config.real_prompts, 0, config.work / "recordings" / "real"),
        Shelf(config.small, SMALL, config.small_prompts, 0, config.work / "recordings" / "small"),
    ]


def shares(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Prompts that a seed trains on, two thirds of them, and the others."""
    order = np.random.default_rng([seed, 3]).permutation(count).tolist()
    return sorted(order[: round(count * 2 / 3)]), sorted(order[round(count * 2 / 3) :])


def with_share_above(namm: NAMM, recordings: Sequence[Recording], share: float) -> NAMM:
    """The NAMM with the threshold that so many tokens of the recorded updates reach.

    Args:
        namm: Scores them.
        recordings: Of prompts.
        share: Of their tokens.
    """
    scores = np.concatenate([found.numpy() for each in recordings for found, _ in scored(namm, each)])
    return shifted(namm, float(np.quantile(scores, 1 - share)))


def calibrated(namm: NAMM, model: object, lessons: Sequence[Lesson], keep: float) -> tuple[NAMM, list[list[float]]]:
    """The NAMM with the threshold at which it keeps the wanted fraction of these prompts, and what was tried.

    Three passes: each recorded score says how far the threshold must move next, by what it kept last.
    """
    tried: list[list[float]] = []
    aim = keep
    for _ in range(3):
        recordings, kept = [], []
        for lesson in lessons:
            updates, fraction = seen_under(model, lesson, namm, "sequence", UPDATES, 0.0)  # type: ignore[arg-type]
            recordings.append((updates, fraction))
            kept.append(fraction)
        found = float(np.mean(kept))
        tried.append([aim, found])
        if abs(found - keep) < 0.015 or len(tried) == 3:
            break
        namm = shifted(namm, _move(namm, [updates for updates, _ in recordings], keep / found))
        aim = aim * keep / found
    return namm, tried


def _move(namm: NAMM, seen: Sequence[Sequence[object]], factor: float) -> float:
    """How far the threshold must go so that `factor` times as many of the tokens there reach it as do now."""
    empty = torch.zeros(1)
    scores = []
    for updates in seen:
        layers, heads, _ = updates[0].positions.shape  # type: ignore[attr-defined]
        last = updates[-1].seen  # type: ignore[attr-defined]
        worth = empty.expand(layers, heads, 2, last + 1)
        for found, _ in scored(namm, Recording(worth, last + 1, tuple(updates), 0.0)):  # type: ignore[arg-type]
            scores.append(found.numpy())
    joined = np.concatenate(scores)
    now = float((joined >= 0).mean())
    return float(np.quantile(joined, 1 - min(0.98, max(0.01, now * factor))))


def one_seed(config: HindsightConfig, seed: int, recorded: Sequence[Sequence[Recording]]) -> dict[str, object]:
    """Trains and saves a seed's NAMM; returns what its card says."""
    began = time.process_time()
    models = [load_source(name, torch.float32) for name in (config.real, config.small)]
    shelves = shelves_of(config)
    divided = [shares(len(shelf), seed) for shelf in recorded]
    own = [[shelf[place] for place in places] for shelf, (places, _) in zip(recorded, divided, strict=True)]
    others = [[shelf[place] for place in places] for shelf, (_, places) in zip(recorded, divided, strict=True)]
    constants = NAMMConfig(signals=config.signals, interval=64, trained_statistics="sequence")
    namm = fresh(constants, spectrum_statistics(recorded))
    first = train(namm, own, config.training, seed)
    namm = with_share_above(NAMM(constants, first.flat, namm.statistics), own[0], config.keep)
    before = [caught(namm, shelf, config.keep) for shelf in others]
    again: list[list[Recording]] = []
    for model, shelf, (places, _), full in zip(models, shelves, divided, recorded, strict=True):
        lessons = shelf.lessons()
        some = np.random.default_rng([seed, 4]).permutation(places)[: config.again].tolist()
        again.append([])
        for place in some:
            updates, kept = seen_under(model, lessons[place], namm, "sequence", UPDATES, 0.0)
            again[-1].append(Recording(full[place].worth, full[place].chunk, updates, kept))
    second = train(namm, own, config.training, seed + 500, again)
    namm = with_share_above(NAMM(constants, second.flat, namm.statistics), again[0], config.keep)
    lessons = draw_lessons(CALIBRATION, read_tokenizer(config.real), config.calibration, CALIBRATION_SEED)
    namm, tried = calibrated(namm, models[0], lessons, config.keep)
    out = config.out / f"seed-{seed}"
    namm.save_pretrained(out)
    return {
        "seed": seed,
        "sha256": file_sha256(out / "model.safetensors"),
        "namm_sha256": namm.sha256(),
        "params": namm.scorer.params,
        "losses": [first.losses, second.losses],
        "caught_before": before,
        "caught": [caught(namm, shelf, config.keep) for shelf in others],
        "again_kept": [float(np.mean([recording.kept for recording in shelf])) for shelf in again],
        "calibration": tried,
        "cpu_seconds": time.process_time() - began,
    }


def main(config: HindsightConfig) -> None:
    """Records what is missing, trains every seed, writes a card each."""
    torch.set_num_threads(1)
    shelves = shelves_of(config)
    for shelf in shelves:
        shelf.fill(config.workers)
    recorded = [shelf.recordings() for shelf in shelves]
    for seed in config.seeds:
        facts = one_seed(config, seed, recorded)
        facts |= {
            "command": f"python checkpoints/recipes/hindsight.py --real {Path(config.real).name} --seeds {seed}"
            f" --signals {' '.join(config.signals)}",
            "signals": config.signals,
            "courses": {"real": asdict(REAL), "small": asdict(SMALL)},
            "prompts": [config.real_prompts, config.small_prompts],
            "keep": config.keep,
            "calibrated_on": asdict(CALIBRATION),
            "training": asdict(config.training),
            "versions": versions(("torch", "transformers", "numpy")),
        }
        write_atomically(config.out / f"seed-{seed}" / "card.json", json.dumps(facts, indent=1) + "\n")
        print(f"seed {seed}: {facts['cpu_seconds']:.0f} s, calibration {facts['calibration']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(HindsightConfig, description=(__doc__ or "").partition("\n\n")[0]))
