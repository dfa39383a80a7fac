"""Trains a NAMM to foresee what will matter, by gradient: `python checkpoints/recipes/hindsight.py --real smollm2`.

The start that `namm-evolve --start` takes. Prompts of a real model, and of a small one if asked, are recorded once:
what a NAMM sees at updates, and what each token turns out to be worth to the answer. Each seed trains on them and
moves its threshold to the wanted size on prompts it has not seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from checkpoints.recipes.commands import command_of
from checkpoints.recipes.real_validation import Questions, compared
from checkpoints.recipes.sized import CALIBRATION, CALIBRATION_SEED, calibrated, under_thresholds
from evaluations.evolution.source import load_source
from evaluations.hindsight.recording import Recording
from evaluations.hindsight.shelf import Shelf
from evaluations.hindsight.shown import spectrum_statistics
from evaluations.hindsight.training import TrainingConfig, fresh, train
from evaluations.rows.provenance import versions
from evaluations.tasks.lessons import DOCUMENTS, Course, draw_lessons
from modalities.pretrained.tokenizer import read_tokenizer
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.files import file_sha256, write_atomically

REAL = Course(
    tasks=(
        "ruler/niah_single_1", DOCUMENTS, "ruler/niah_multikey_1", "ruler/vt", DOCUMENTS, "ruler/niah_single_2",
        "ruler/niah_multivalue", DOCUMENTS,
    ),
    lengths=(512, 640, 768), intervals=(64, 128, 256), chunk=64,
)  # fmt: skip
"""What a real model is shown; the other tasks of RULER stay unseen."""
LONGER = Course(
    tasks=(
        "ruler/niah_single_1", DOCUMENTS, "ruler/niah_multikey_1", "ruler/vt", "ruler/niah_single_2", DOCUMENTS,
        "ruler/niah_multivalue", "ruler/niah_multikey_1",
    ),
    lengths=(512, 768, 1024), intervals=(64, 128), chunk=64,
)  # fmt: skip
"""The same tasks in longer prompts, fewer of running text."""
COURSES = {"first": REAL, "longer": LONGER}
SMALL = Course(tasks=("pairs", "passkey", "copy", "variables"), lengths=(288, 432), intervals=(48, 96, 144), chunk=48)
"""What the shipped recall-llama is shown."""
START_STEP = 1000
"""Between the seeds of the starts of one NAMM."""
UNSAID = ("out", "work", "workers")
"""Settings that do not change what is made."""


@dataclass(frozen=True)
class HindsightConfig:
    """The recipe."""

    out: Path = Path("runs/hindsight/namm")
    """Where NAMMs and cards go, in a folder `seed-N` each."""

    work: Path = Path("runs/hindsight")
    """Where recordings lie; what is there is not recorded again."""

    real: str = "smollm2"
    """A real model: a folder or a Hub id."""

    small: str | None = None
    """A second source, which reads recall tasks, such as the shipped recall-llama; None: the real model alone."""

    signals: tuple[str, ...] = ("spectrogram", "key_difference")
    """What the NAMM reads."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A NAMM each: its first numbers and its order."""

    starts: int = 1
    """First numbers that are tried for a seed, each trained to the end; of several the one is kept that answers
    validation prompts best at the wanted size. Runs of one recipe differ by what they begin with."""

    choice: Questions = field(
        default_factory=lambda: Questions(
            ("ruler/niah_multikey_1", "ruler/niah_multivalue", "ruler/vt"), prompts=3, sizing=1
        )
    )
    """What they are asked for that."""

    course: Literal["first", "longer"] = "first"
    """What the real model is shown."""

    draw: int = 0
    """Which draw of its prompts."""

    real_prompts: int = 24
    small_prompts: int = 40

    documents: bool = False
    """Train on running text, too. It is most of the worth there is, and what it teaches is to read attention: with it
    needles and cues are lost."""

    keep: float = 0.25
    """Wanted kept fraction after an update of the real model, at an interval of 64."""

    calibration: int = 2
    """Prompts on which the threshold is moved."""

    workers: int = 1
    """Processes that record."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the sources while they are recorded and sizes are found; some processors are four times faster in bfloat16."""

    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ConfigError(f"Expected a start or more, found {self.starts}.")
        if self.starts > 1 and self.choice.keep != self.keep:
            raise ConfigError(
                f"Expected starts that are compared at the size they will have, found --choice.keep {self.choice.keep} "
                f"and --keep {self.keep}; give both the same."
            )


def shelves_of(config: HindsightConfig) -> list[Shelf]:
    """The recordings of each source."""
    folder = config.work / "recordings" / "real"
    real = Shelf(config.real, COURSES[config.course], config.real_prompts, config.draw, folder, config.dtype)
    if config.small is None:
        return [real]
    small = config.work / "recordings" / "small"
    return [real, Shelf(config.small, SMALL, config.small_prompts, 0, small, config.dtype)]


def taught(config: HindsightConfig, shelf: Shelf) -> list[Recording]:
    """The recordings of a shelf that are trained on."""
    found = zip(shelf.lessons(), shelf.recordings(), strict=True)
    return [recording for lesson, recording in found if config.documents or lesson.task != DOCUMENTS]


def start_of(folder: Path) -> NAMM:
    """A NAMM to go on from.

    Raises:
        ConfigError: It was trained under other statistics than each sequence's.
    """
    namm = NAMM.from_pretrained(folder)
    if namm.config.trained_statistics != "sequence":
        raise ConfigError(
            f"{folder}: expected a NAMM trained under the statistics of each sequence, such as one of hindsight.py, "
            f"found {namm.config.trained_statistics!r}; name another."
        )
    return namm


def one_seed(config: HindsightConfig, seed: int, shelves: Sequence[Sequence[Recording]]) -> dict[str, object]:
    """Trains and saves a seed's NAMM; returns what its card says."""
    began, tokenizer = time.process_time(), read_tokenizer(config.real)
    model = load_source(config.real, getattr(torch, config.dtype))
    constants = NAMMConfig(signals=config.signals, interval=64, trained_statistics="sequence")
    nothing = fresh(constants, spectrum_statistics(shelves))
    tried = [train(nothing, shelves, config.training, seed + START_STEP * place) for place in range(config.starts)]
    namms = [NAMM(constants, trained.flat, nothing.statistics) for trained in tried]
    answered: list[float] = []
    if config.starts > 1:
        who = {str(place): under_thresholds(each, config.choice.interval) for place, each in enumerate(namms)}
        rows = compared(config.choice, who, model, tokenizer)
        answered = [rows[name]["all"] for name in who]
    best = max(range(len(answered)), key=answered.__getitem__) if answered else 0
    trained, namm, out = tried[best], namms[best], config.out / f"seed-{seed}"
    namm.save_pretrained(out)  # kept should sizing be interrupted
    lessons = draw_lessons(CALIBRATION, tokenizer, config.calibration, CALIBRATION_SEED)
    namm, sized = calibrated(namm, model, lessons, config.keep)
    namm.save_pretrained(out)
    return {
        "seed": seed,
        "sha256": file_sha256(out / "model.safetensors"),
        "namm_sha256": namm.sha256(),
        "params": namm.scorer.params,
        "losses": trained.losses,
        "answered": answered,
        "calibration": sized._asdict(),
        "cpu_seconds": time.process_time() - began,
    }


def main(config: HindsightConfig) -> None:
    """Records what is missing, trains every seed, writes a card each."""
    torch.set_num_threads(1)
    shelves = shelves_of(config)
    for shelf in shelves:
        shelf.fill(config.workers)
    recorded = [taught(config, shelf) for shelf in shelves]
    for seed in config.seeds:
        facts = one_seed(config, seed, recorded)
        facts |= {
            "command": command_of("checkpoints/recipes/hindsight.py", replace(config, seeds=(seed,)), UNSAID),
            "signals": config.signals,
            "courses": [asdict(shelf.course) for shelf in shelves],
            "documents": config.documents,
            "prompts": [len(each) for each in recorded],
            "keep": config.keep,
            "calibrated_on": asdict(CALIBRATION),
            "training": asdict(config.training),
            "choice": asdict(config.choice),
            "versions": versions(("torch", "transformers", "numpy")),
        }
        write_atomically(config.out / f"seed-{seed}" / "card.json", json.dumps(facts, indent=1) + "\n")
        print(f"seed {seed}: {facts['cpu_seconds']:.0f} s, kept {facts['calibration']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(HindsightConfig, description=(__doc__ or "").partition("\n\n")[0]))
