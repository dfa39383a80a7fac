"""Trains hindsight NAMMs by the loss that their forgetting causes: `python checkpoints/recipes/soft_forgetting.py`.

Takes what `hindsight.py` wrote, seed by seed; see `evaluations/hindsight/softly.py` for the method. Interrupted, the
same command goes on where it was. Each seed's threshold is searched for before and after, on prompts of its own.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from checkpoints.recipes.commands import command_of
from checkpoints.recipes.hindsight import LONGER, SMALL, start_of
from checkpoints.recipes.sized import CALIBRATION, CALIBRATION_SEED, calibrated
from evaluations.evolution.source import load_source
from evaluations.hindsight.softly import SoftConfig, SoftTraining, Step
from evaluations.rows.provenance import versions
from evaluations.tasks.lessons import DOCUMENTS, Course, Lesson, draw_lessons
from modalities.pretrained.tokenizer import read_tokenizer
from namm.errors import ConfigError
from namm.files import file_sha256, write_atomically

COURSES = {
    "hindsight": Course(tasks=LONGER.tasks, lengths=(576, 640, 768), intervals=(64,), chunk=64),
    "wide": Course(
        tasks=(
            "ruler/niah_single_1", DOCUMENTS, "ruler/niah_multikey_1", "ruler/niah_single_3", "ruler/vt",
            "ruler/niah_multiquery", "ruler/niah_single_2", DOCUMENTS, "ruler/niah_multivalue", "ruler/niah_single_3",
            "ruler/niah_multikey_1",
        ),
        lengths=(576, 768, 1152), intervals=(64,), chunk=64,
    ),
}  # fmt: skip
"""What is read: the tasks of hindsight's longer course, or more of them in prompts of more lengths. The other tasks of
RULER and questions about documents stay unseen."""
SAVE_EVERY = 10
"""Steps."""
UNSAID = ("start", "out")
"""Settings that do not change what is made of a start."""


@dataclass(frozen=True)
class SoftForgettingConfig:
    """The recipe."""

    start: Path = Path("runs/hindsight/namm")
    """Where `hindsight.py` wrote folders `seed-N`."""

    out: Path = Path("runs/soft_forgetting/namm")
    """Where NAMMs and cards go, in a folder `seed-N` each."""

    real: str = "smollm2"
    """The model: a folder or a Hub id."""

    small: str | None = None
    """A second source, which reads recall tasks, such as the shipped recall-llama: one prompt a step, in float32. None:
    the real model alone."""

    course: Literal["hindsight", "wide"] = "hindsight"
    """What the real model reads."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A NAMM each: its start and its prompts."""

    draw: int = 500
    """Which draw of prompts the first seed reads; each has another. To train on further, start from what was written
    before and draw others."""

    calibration: int = 2
    """Prompts on which the threshold is searched for."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model's weights and arithmetic."""

    training: SoftConfig = field(default_factory=SoftConfig)


def one_seed(config: SoftForgettingConfig, seed: int) -> dict[str, object]:
    """Trains and saves a seed's NAMM; returns what its card says.

    Raises:
        ConfigError: The folder holds a training of other settings, or the start reads other statistics.
    """
    out, began, tokenizer = config.out / f"seed-{seed}", time.process_time(), read_tokenizer(config.real)
    model = load_source(config.real, getattr(torch, config.dtype))
    first = start_of(config.start / f"seed-{seed}")
    sizes = draw_lessons(CALIBRATION, tokenizer, config.calibration, CALIBRATION_SEED)
    sized_first, before = calibrated(first, model, sizes, config.training.keep)
    batch, steps = config.training.batch, config.training.steps
    sources = [(model, draw_lessons(COURSES[config.course], tokenizer, batch * steps, config.draw + seed), batch)]
    if config.small is not None:
        small = load_source(config.small, torch.float32)
        sources.append((small, draw_lessons(SMALL, None, steps, config.draw + seed), 1))
    models = [each for each, _, _ in sources]
    training, path = SoftTraining(sized_first, config.training, len(sources)), out / "training.safetensors"
    begun = json.loads(
        json.dumps(
            {
                "training": asdict(config.training),
                "start": first.sha256(),
                "real": config.real,
                "small": config.small,
                "course": config.course,
                "draw": config.draw,
                "dtype": config.dtype,
            }
        )
    )
    said = out / "training.json"
    if path.exists():
        if json.loads(said.read_text()) != begun:
            raise ConfigError(f"{out} holds a training of other settings or another start; choose another folder.")
        training.restore(path)
    log = out / "steps.jsonl"
    found = [json.loads(line) for line in log.read_text().splitlines()][: training.number] if log.exists() else []
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(said, json.dumps(begun, indent=1) + "\n")
    while training.number < steps:
        some: list[list[Lesson]] = [
            lessons[count * training.number : count * (training.number + 1)] for _, lessons, count in sources
        ]
        step: Step = training.step(models, some)
        tasks = [lesson.task for each in some for lesson in each]
        found.append({"losses": step.losses, "kept": step.kept, "tasks": tasks})
        if training.number % SAVE_EVERY == 0 or training.number == steps:
            write_atomically(log, "".join(json.dumps(each) + "\n" for each in found))
            training.save(path)
            print(f"seed {seed}, step {training.number}: kept {step.kept}, losses {step.losses}", flush=True)
    namm, after = calibrated(training.namm, model, sizes, config.training.keep)
    namm.save_pretrained(out)
    return {
        "seed": seed,
        "sha256": file_sha256(out / "model.safetensors"),
        "namm_sha256": namm.sha256(),
        "start_sha256": first.sha256(),
        "params": namm.scorer.params,
        "sizes": {"before": before._asdict(), "after": after._asdict()},
        "cpu_seconds": time.process_time() - began,
        "losses": {task: [_mean(found[:30], task), _mean(found[-30:], task)] for task in _tasks(config)},
    }


def _tasks(config: SoftForgettingConfig) -> tuple[str, ...]:
    small = SMALL.tasks if config.small is not None else ()
    return tuple(dict.fromkeys((*COURSES[config.course].tasks, *small)))


def _mean(steps: list[dict[str, list[object]]], task: str) -> float | None:
    """Nats a wanted token of a task's prompts in some steps."""
    losses = [
        float(str(loss)) for step in steps for loss, of in zip(step["losses"], step["tasks"], strict=True) if of == task
    ]
    return sum(losses) / len(losses) if losses else None


def main(config: SoftForgettingConfig) -> None:
    """Trains every seed and writes a card each.

    Raises:
        ConfigError: What is made would take the place of what it is made of.
    """
    if config.out.resolve() == config.start.resolve():
        raise ConfigError(f"Expected another folder for --out than --start, found {config.out} twice; name another.")
    torch.set_num_threads(1)
    for seed in config.seeds:
        facts = one_seed(config, seed)
        facts |= {
            "start": json.loads((config.start / f"seed-{seed}" / "card.json").read_text()),
            "command": command_of("checkpoints/recipes/soft_forgetting.py", replace(config, seeds=(seed,)), UNSAID),
            "course": asdict(COURSES[config.course]),
            "small_course": None if config.small is None else asdict(SMALL),
            "draw": config.draw + seed,
            "training": asdict(config.training),
            "calibrated_on": asdict(CALIBRATION),
            "versions": versions(("torch", "transformers", "numpy")),
        }
        write_atomically(config.out / f"seed-{seed}" / "card.json", json.dumps(facts, indent=1) + "\n")
        print(f"seed {seed}: {facts['cpu_seconds']:.0f} s, {facts['sizes']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(SoftForgettingConfig, description=(__doc__ or "").partition("\n\n")[0]))
