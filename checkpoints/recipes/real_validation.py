"""What a choice between trainings rests on: `python checkpoints/recipes/real_validation.py --namm FOLDER ...`.

NAMMs and rivals answer the same validation prompts of a real model, teacher forced, each at one threshold under which
it keeps a part of other prompts of the task; no answer is asked to find that. Reported figures come from elsewhere
(`namm-transfer --target real`): who chooses by these prompts has seen them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import tyro

from checkpoints.recipes.sized import under_thresholds
from evaluations.evolution.likelihood_fitness import asked_under
from evaluations.evolution.source import load_source
from evaluations.tasks.lessons import DOCUMENTS, Course, Lesson, draw_lessons
from modalities.language.sizing import threshold_for
from modalities.pretrained.tokenizer import read_tokenizer
from namm import NAMM
from namm.errors import ConfigError
from namm.policies import Policy, make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SIZING_SEED = 1
"""Draw of validation prompts on which thresholds are found; those that are asked are of draw 0."""


@dataclass(frozen=True)
class Questions:
    """What is asked, at which size."""

    tasks: tuple[str, ...] = ("ruler/niah_multikey_1", "ruler/niah_multivalue", "ruler/vt", DOCUMENTS)
    length: int = 1024
    """Tokens of a prompt."""

    interval: int = 64
    """Tokens between updates."""

    prompts: int = 3
    """A task."""

    sizing: int = 2
    """Prompts a task on which a threshold is found."""

    keep: float = 0.25
    """Wanted part of the tokens."""

    def __post_init__(self) -> None:
        if not self.tasks or min(self.prompts, self.sizing) < 1:
            raise ConfigError(f"Expected tasks and a prompt or more for each, found {self}.")


@dataclass(frozen=True)
class ValidationConfig(Questions):
    """Who is asked what."""

    namm: tuple[Path, ...] = ()
    """Folders of NAMMs; each is called by its last two names, and reads the statistics that it was made with."""

    rivals: tuple[str, ...] = ("keydiff",)
    """Under one threshold, as the NAMMs."""

    real: str = "smollm2"
    """The model: a folder, a Hub id or FILE.gguf."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model's weights and arithmetic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.namm + self.rivals:
            raise ConfigError(f"Expected somebody to ask, found {self}.")


def policies(config: ValidationConfig) -> dict[str, Callable[[float], Policy]]:
    """Everybody who is asked, under a threshold.

    Raises:
        ConfigError: Two folders have the same name.
    """
    interval = config.interval
    found: dict[str, Callable[[float], Policy]] = {}
    for folder in config.namm:
        name = "/".join(folder.absolute().parts[-2:])
        if name in found:
            raise ConfigError(f"Expected NAMMs of different names, found {name!r} twice; ask them one after the other.")
        found[name] = under_thresholds(NAMM.from_pretrained(folder), interval)
    for rival in config.rivals:
        found[rival] = lambda threshold, rival=rival: make_policy(rival, interval=interval, threshold=threshold)
    return found


def asked(model: PreTrainedModel, policy: Callable[[], Policy], lessons: Sequence[Lesson]) -> tuple[float, float]:
    """Log-likelihood of a wanted token, mean over prompts as in the matrix, and the part that was held."""
    answers = [asked_under(model, policy(), lesson) for lesson in lessons]
    nats = float(np.mean([float(answer.log_likelihood[0]) for answer in answers]))
    return nats, float(np.mean([float(answer.slots[0]) / answer.context_tokens for answer in answers]))


def compared(
    questions: Questions,
    who: Mapping[str, Callable[[float], Policy]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, Mapping[str, float]]:
    """By policy: the percent of the full cache's likelihood over all tasks and in each, and what was kept.

    Args:
        questions: What is asked.
        who: Policies under a threshold.
        model: Who answers.
        tokenizer: Its own; None for a source that reads recall tasks alone.
    """
    rows: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in who}
    for task in questions.tasks:
        course = Course((task,), (questions.length,), (questions.interval,), questions.interval)
        lessons = draw_lessons(course, tokenizer, questions.prompts, 0, "validation")
        others = draw_lessons(course, tokenizer, questions.sizing, SIZING_SEED, "validation")
        texts = [lesson.ids[: lesson.context + 1] for lesson in others]  # the last token of a text is not read
        full, _ = asked(model, lambda: make_policy("full"), lessons)
        for name, under in who.items():
            threshold = threshold_for(model, under, texts, questions.keep, 5).threshold
            nats, kept = asked(model, lambda under=under, at=threshold: under(at), lessons)
            rows[name][task] = (100 * math.exp(nats - full), kept)
            print(f"{task}, {name}: {rows[name][task][0]:.1f}%, kept {kept:.1%}", flush=True)
    return {
        name: {
            "all": round(float(np.mean([part for part, _ in row.values()])), 1),
            "kept": round(float(np.mean([kept for _, kept in row.values()])), 3),
            **{task: round(part, 1) for task, (part, _) in row.items()},
        }
        for name, row in rows.items()
    }


def main(config: ValidationConfig) -> None:
    """Asks everybody and prints a line of JSON each."""
    torch.set_num_threads(1)
    model, tokenizer = load_source(config.real, getattr(torch, config.dtype)), read_tokenizer(config.real)
    for name, row in compared(config, policies(config), model, tokenizer).items():
        print(json.dumps({"policy": name, **row}))


if __name__ == "__main__":
    main(tyro.cli(ValidationConfig, description=(__doc__ or "").partition("\n\n")[0]))
