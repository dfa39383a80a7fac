"""Judges NAMMs of one family on a real model, once: `python checkpoints/recipes/real_judge.py --namm FOLDER FOLDER`.

Prompts, documents and lengths that no training or choice has seen. Every policy answers the same prompts, teacher
forced, so differences are paired; rivals hold, on each task, the mean number of slots that the family held when the
question came. What was judged before is kept in --work and not judged again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tyro

from evaluations.analysis.estimates import bootstrap
from evaluations.evolution.likelihood_fitness import asked_under
from evaluations.evolution.source import load_source
from evaluations.tasks.lessons import Course, Lesson, draw_lessons
from modalities.pretrained.tokenizer import read_tokenizer
from namm import NAMM
from namm.features import StatisticsMode
from namm.files import write_atomically
from namm.policies import Policy, make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILY = "family"
"""Name of the mean over the NAMMs in tables."""


@dataclass(frozen=True)
class RealJudgeConfig:
    """What is compared with what."""

    namm: tuple[Path, ...]
    """The family."""

    earlier: tuple[Path, ...] = ()
    """NAMMs to be compared with, at their own size."""

    earlier_statistics: tuple[StatisticsMode, ...] = ("source",)
    """Under which."""

    real: str = "smollm2"
    """The model: a folder or a Hub id."""

    tasks: tuple[str, ...] = (
        "ruler/niah_multikey_1", "documents", "ruler/vt", "ruler/niah_single_3",
    )  # fmt: skip
    """Kinds that hindsight learns from, then one that it does not."""

    length: int = 1024
    """Tokens of a prompt, its answer's room included; training sees up to 768."""

    interval: int = 64
    """Tokens between updates."""

    prompts: int = 3
    """A task."""

    draw: int = 1
    """Which draw of test prompts; draw 0 was looked at while sizes were mended."""

    rivals: tuple[str, ...] = ("keydiff", "h2o_age")
    """At the family's mean size."""

    work: Path = Path("runs/real_judge")
    """Where answers lie."""

    out: Path | None = None
    """File of the table; printed in any case."""


@dataclass(frozen=True)
class Answers:
    """One policy on one task's prompts."""

    log_likelihoods: tuple[float, ...]
    hits: tuple[float, ...]
    kept: tuple[float, ...]


class Judge:
    """Asks every policy, and remembers on disk what each answered."""

    def __init__(self, config: RealJudgeConfig) -> None:
        """Loads the model.

        Args:
            config: What is compared.
        """
        self.config = config
        self.model: PreTrainedModel = load_source(config.real, torch.float32)
        self.tokenizer = read_tokenizer(config.real)
        config.work.mkdir(parents=True, exist_ok=True)

    def lessons(self, task: str) -> list[Lesson]:
        """The task's prompts."""
        course = Course((task,), (self.config.length,), (self.config.interval,), self.config.interval)
        return draw_lessons(course, self.tokenizer, self.config.prompts, self.config.draw, "test")

    def ask(self, name: str, task: str, policy: Mapping[str, Any], identity: object) -> Answers:
        """One policy on a task.

        Args:
            name: Of the policy, for the file.
            task: What is asked.
            policy: Arguments of `make_policy`.
            identity: What decides the answers besides.
        """
        facts = json.loads(
            json.dumps([name, task, self.config.length, self.config.interval, self.config.draw, identity])
        )
        path = self.config.work / f"{name}-{task.replace('/', '-')}-{self.config.length}.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        rows = found["rows"] if found.get("facts") == facts else []
        for lesson in self.lessons(task)[len(rows) :]:
            made: Policy = make_policy(**policy)
            got = asked_under(self.model, made, lesson)
            kept = float(got.slots[0]) / got.context_tokens
            rows.append([float(got.log_likelihood[0]), float(got.accuracy[0]), kept])
            write_atomically(path, json.dumps({"facts": facts, "rows": rows}) + "\n")
        return Answers(*(tuple(column) for column in zip(*rows[: self.config.prompts], strict=True)))


def judged(config: RealJudgeConfig) -> dict[str, dict[str, Answers]]:
    """Answers by task and policy."""
    judge, interval = Judge(config), config.interval
    found: dict[str, dict[str, Answers]] = {}
    for task in config.tasks:
        here: dict[str, Answers] = {"full": judge.ask("full", task, {"name": "full"}, None)}
        for folder, mode in [(each, "sequence") for each in config.namm] + [
            (each, mode) for each in config.earlier for mode in config.earlier_statistics
        ]:
            namm = NAMM.from_pretrained(folder)
            name = f"{folder.name}" if folder in config.namm else f"{folder.name}-{mode}"
            options = {"name": "namm", "namm": namm, "interval": interval, "statistics": mode}
            here[name] = judge.ask(name, task, options, [namm.sha256(), mode])
        lessons = judge.lessons(task)
        tails = [lesson.context % interval for lesson in lessons]
        held = np.mean([here[folder.name].kept for folder in config.namm], axis=0)
        slots = [
            part * lesson.context - tail for part, lesson, tail in zip(held, lessons, tails, strict=True)
        ]  # what was judged: a budget says nothing of the tail
        budget = max(1, math.ceil(float(np.mean(slots))))
        for rival in config.rivals:
            options = {"name": rival, "interval": interval, "budget": budget}
            here[rival] = judge.ask(rival, task, options, budget)
        found[task] = here
        print(f"{task}: budget {budget}", flush=True)
    return found


def table(config: RealJudgeConfig, found: Mapping[str, Mapping[str, Answers]]) -> str:
    """Markdown: log-likelihood a token and kept fraction by task, and the family's lead with its interval."""
    names = [folder.name for folder in config.namm]
    policies = [name for name in next(iter(found.values())) if name not in names]
    lines = [
        "| policy | " + " | ".join(found) + " | mean | family − policy, mean over tasks |",
        "|---" * (len(found) + 3) + "|",
    ]
    family = {task: np.mean([here[name].log_likelihoods for name in names], axis=0) for task, here in found.items()}
    for name in (FAMILY, *names, *policies):
        cells, every = [], []
        for _task, here in found.items():
            some = names if name == FAMILY else [name]
            values = np.mean([here[each].log_likelihoods for each in some], axis=0)
            kept = float(np.mean([here[each].kept for each in some]))
            hits = float(np.mean([here[each].hits for each in some]))
            every.append(values)
            cells.append(f"{float(np.mean(values)):.2f}, {100 * hits:.0f}%, {100 * kept:.0f}%")
        lead = "–"
        if name not in (FAMILY, *names):
            lead = _lead([family[task] - values for task, values in zip(found, every, strict=True)])
        mean = float(np.mean([values.mean() for values in every]))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {mean:.3f} | {lead} |")
    return "\n".join(lines) + "\n"


def _lead(differences: Sequence[np.ndarray]) -> str:
    """Mean over tasks, which have equally many prompts, of paired differences, with a bootstrap inside tasks."""
    return bootstrap([difference.tolist() for difference in differences], 0).text(digits=2, sign="+")


def main(config: RealJudgeConfig) -> None:
    """Judges what is missing and prints the table."""
    torch.set_num_threads(1)
    text = table(config, judged(config))
    if config.out is not None:
        write_atomically(config.out, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(RealJudgeConfig, description=(__doc__ or "").partition("\n\n")[0]))
