"""Fitness on a text benchmark: candidates generate answers to real prompts, and the benchmark scores them.

Or, far denser, the likelihood of the right answer is scored, as a part of the full cache's. As published: each
generation draws prompts without replacement, the same for all candidates; a task's mean score is divided by that of
the full cache on the same prompts; prompts are read whole, evicting on the way, and answered greedily. What the full
cache scores on a prompt is measured once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.analysis.clusters import numbered
from evaluations.tasks.text import Benchmark, TextItem, benchmark_tasks, make_benchmark
from evaluations.tasks.text.fitted import fitted
from modalities.language.prompts import Group, Prompt
from modalities.language.reading import Answer, read
from modalities.pretrained.tokenizer import text_of
from namm import NAMM
from namm.calibration import Calibration
from namm.errors import ConfigError, DataError
from namm.evolution.scoring import FitnessReport, ValidationReport
from namm.features import FeatureStatistics
from namm.policies import Policy, make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Answers = Literal["generated", "likelihood"]
SMALLEST_REFERENCE = 0.01
"""Floor of the full-cache score that a candidate's is divided by."""


@dataclass(frozen=True)
class BenchmarkFitnessConfig:
    """What candidates are judged on."""

    tasks: tuple[str, ...]
    """NAME/TASK of each."""

    data: Path | None = None
    """Folder with the benchmark's data; None: its home on the Hub."""

    templates: Path | None = None
    """Folder with its prompt templates; None: beside the data."""

    prompts: int = 64
    """Prompts a task and generation, drawn without replacement."""

    intervals: tuple[int, ...] = (512,)
    """Update intervals in tokens; one is drawn a generation, and a validation sees all of them."""

    lengths: tuple[int, ...] = (4096,)
    """Context lengths, where the benchmark makes contexts or comes in lengths."""

    samples: int | None = None
    """Prompts a task and length, where it makes them; None for as many as its source."""

    answers: Answers = "generated"
    """What is scored: what candidates generate, or how likely the right answer is (at most the full cache's)."""

    window: int = 32_768
    """Longest prompt with its answer, in tokens; longer ones lose their middle."""

    price: float = 0.0
    """Fitness lost per kept fraction; none as published."""

    validation_share: float = 0.0
    """Part of each task's prompts, by whole documents, that no candidate sees and validations use; 0: validations use
    all, as published."""

    validation_prompts: int | None = None
    """Most prompts a task in a validation; None for all of them."""

    def __post_init__(self) -> None:
        benchmark_tasks(self.tasks)
        for name, fine, expected in (
            ("prompts", self.prompts >= 1, "at least 1"),
            ("window", self.window >= 64, "at least 64"),
            ("intervals", len(self.intervals) > 0, "at least one"),
            ("lengths", len(self.lengths) > 0 and min(self.lengths, default=0) >= 1, "at least one above 0"),
            ("samples", self.samples is None or self.samples >= 1, "at least 1"),
            ("validation_share", 0 <= self.validation_share < 1, "0 or more and below 1"),
        ):
            if not fine:
                raise ConfigError(f"Benchmark fitness {name}: expected {expected}, found {getattr(self, name)}.")


def held_back(documents: Sequence[str | None], share: float) -> tuple[int, list[int]]:
    """How many prompts are kept from all candidates, and the prompts in an order that begins with them.

    Prompts about one document stay together, so the share is reached, and passed where a document has several.

    Args:
        documents: Of each prompt; None for one that has its own.
        share: Part of the prompts.
    """
    numbers, by_document = numbered(documents), dict[int, list[int]]()
    for place in np.random.default_rng(0).permutation(len(documents)).tolist():
        by_document.setdefault(numbers[place], []).append(place)
    wanted, held = round(share * len(documents)), 0
    for places in by_document.values():
        if held >= wanted:
            break
        held += len(places)
    return held, [place for places in by_document.values() for place in places]


class _Task:
    """One task's prompts as tokens, and what the full cache scores on them."""

    def __init__(self, name: str, config: BenchmarkFitnessConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        [(benchmark, self.task)] = benchmark_tasks([name])
        self.name, self.tokenizer = name, tokenizer
        made = {"templates": config.templates, "lengths": config.lengths, "samples": config.samples}
        self.benchmark: Benchmark = make_benchmark(benchmark, config.data, **made)
        self.likelihood = config.answers == "likelihood"
        self.items: Sequence[TextItem] = self.benchmark.items(self.task, tokenizer)
        self.stop: Sequence[str] = self.benchmark.protocol(self.task).get("stop", ())
        self.prompts = [self._prompt(item, config.window) for item in self.items]
        held, order = held_back([item.document for item in self.items], config.validation_share)
        self.validation = sorted(order[:held] if held else order)[: config.validation_prompts]
        self.training = sorted(order[held:])
        self.reference: dict[int, float] = {}
        if not self.training:
            raise DataError(f"{name}: expected prompts to evolve on, found {len(self.items)} in all; lower the share.")

    def _prompt(self, item: TextItem, window: int) -> Prompt:
        name = f"Prompt {item.id!r} of {self.name}"
        ids = tuple(fitted(item.prompt, None, self.tokenizer, window - item.max_new_tokens, name=name).ids)
        if not self.likelihood:
            return Prompt(ids[:-1], ids[-1:], (), item.max_new_tokens)
        text = self.benchmark.answer(self.task, item)
        said = text if item.prompt[-1:].isspace() else f" {text}"
        answer = tuple(self.tokenizer(said, add_special_tokens=False)["input_ids"])
        if not answer:
            raise DataError(f"{name}: expected a right answer of a token or more, found {text!r}.")
        return Prompt(ids[:-1], (ids[-1], *answer[:-1]), answer)

    def score(self, place: int, answer: Answer) -> float:
        """The benchmark's score of an answer to a prompt, from 0 to 1, or the right one's log-likelihood a token."""
        if self.likelihood:
            return float(np.mean(answer.log_likelihoods))
        text = text_of(self.tokenizer, answer.tokens, skip_special_tokens=True)
        for stop in self.stop:
            text = text.partition(stop)[0]
        return self.benchmark.score(self.task, self.items[place], text)


class BenchmarkFitness:
    """Scores populations of NAMM parameters on benchmarks; the pair of callables that evolution asks for."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, namm: NAMM, config: BenchmarkFitnessConfig
    ) -> None:
        """A fitness.

        Args:
            model: The source.
            tokenizer: Its tokenizer.
            namm: Config and source statistics; its parameters are not used.
            config: What candidates are judged on.

        Raises:
            DataError: Data or templates are missing or damaged.
        """
        self.model, self.tokenizer, self.namm, self.config = model, tokenizer, namm, config
        self.tasks = [_Task(name, config, tokenizer) for name in config.tasks]

    def __call__(self, candidates: Float[Tensor, "population params"], generation: int, seed: int) -> FitnessReport:
        """Mean over tasks of the score relative to the full cache, less the price of what was kept."""
        draws = np.random.default_rng(seed)
        relative, kept = [], []
        places = [
            draws.choice(task.training, min(self.config.prompts, len(task.training)), replace=False).tolist()
            for task in self.tasks
        ]
        interval = int(draws.choice(self.config.intervals))
        for task, drawn in zip(self.tasks, places, strict=True):
            scores, fractions = self._scores(task, candidates, drawn, interval)
            relative.append(self._relative(task, drawn, scores))
            kept.append(fractions)
        score, fraction = torch.stack(relative).mean(0), torch.stack(kept).mean(0)
        each = {"relative_score": score, "kept_fraction": fraction}
        return FitnessReport(score - self.config.price * fraction, {"interval": interval}, each)

    def validate(self, mean: Float[Tensor, " params"], generation: int) -> ValidationReport:
        """The mean on the validation prompts of every task, at every interval."""
        rows, relative, kept = {}, [], []
        for task, interval in product(self.tasks, self.config.intervals):
            scores, fractions = self._scores(task, mean[None], task.validation, interval)
            relative.append(float(self._relative(task, task.validation, scores)))
            kept.append(float(fractions))
            several = f"_{interval}" if len(self.config.intervals) > 1 else ""
            rows[f"{task.name}{several}"] = relative[-1]
        score, fraction = float(np.mean(relative)), float(np.mean(kept))
        return ValidationReport(
            score - self.config.price * fraction, {"relative_score": score, "kept_fraction": fraction, **rows}
        )

    def measure(self, prompts: int = 16) -> FeatureStatistics:
        """Feature statistics of the source: a full-cache pass over training prompts, pooled over layers."""
        calibration = Calibration(self.namm, min(self.config.intervals), self.model.config.num_hidden_layers)
        for task in self.tasks:
            for place in task.training[:prompts]:
                self._read(calibration, [Prompt(task.prompts[place].context, task.prompts[place].question)])
        return calibration.statistics(pooled=True)

    def _scores(
        self, task: _Task, candidates: Float[Tensor, "population params"], places: Sequence[int], interval: int
    ) -> tuple[Float[Tensor, "prompts population"], Float[Tensor, " population"]]:
        """Scores and mean kept fraction of each candidate; all of them answer a prompt side by side."""
        scores, kept = [], []
        population = len(candidates)
        for place in places:
            policy = make_policy(
                "namm", namm=self.namm, interval=interval,
                population=candidates.to(self.model.device), candidate=torch.arange(population),
            )  # fmt: skip
            answers = self._read(policy, [task.prompts[place]] * population)
            scores.append([task.score(place, answer) for answer in answers])
            kept.append([answer.slots / answer.context_tokens for answer in answers])
        return torch.tensor(scores), torch.tensor(kept).mean(0)

    def _relative(
        self, task: _Task, places: Sequence[int], scores: Float[Tensor, "prompts population"]
    ) -> Float[Tensor, " population"]:
        """As a part of the full cache's: mean scores, or, prompt by prompt, likelihoods a token, each at most 1."""
        reference = torch.tensor(self._references(task, places))
        if task.likelihood:
            return (scores - reference[:, None]).clamp_max(0.0).exp().mean(0)
        return scores.mean(0) / max(float(reference.double().mean()), SMALLEST_REFERENCE)

    def _references(self, task: _Task, places: Sequence[int]) -> list[float]:
        for place in places:
            if place not in task.reference:
                [answer] = self._read(make_policy("full"), [task.prompts[place]])
                task.reference[place] = task.score(place, answer)
        return [task.reference[place] for place in places]

    def _read(self, policy: Policy, prompts: Sequence[Prompt]) -> list[Answer]:
        groups = [Group((row,), len(prompt.context), row) for row, prompt in enumerate(prompts)]
        end = self.tokenizer.eos_token_id
        answers, _ = read(self.model, policy, prompts, groups, lambda tokens: tokens[-1] == end)
        return [answers[row] for row in range(len(prompts))]
