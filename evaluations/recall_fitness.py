"""Fitness on text: how well prompts are answered under each candidate's forgetting, beside the full cache.

All candidates of a generation answer the same prompts, side by side in one batch; what the score is compared with is
the same model with its full cache on the same prompts. What a generation draws (interval, context length, feature
statistics, prompts) comes from its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.tasks.recall import TASKS, TextPrompts, get_task, train_seed, validation_seed
from modalities.huggingface import attach
from modalities.text import Recall, recall
from namm import NAMM
from namm.calibration import Calibration
from namm.errors import ConfigError
from namm.evolution.loop import FitnessReport, ValidationReport
from namm.features import FeatureStatistics, StatisticsMode, check_statistics_mode
from namm.policies import make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALLEST_REFERENCE = 0.01
"""Floor of the full-cache score that a candidate's is divided by."""


@dataclass(frozen=True)
class RecallFitnessConfig:
    """What candidates are judged on."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of recall tasks; the fitness is the mean over them."""

    prompts: int = 8
    """Prompts a task and generation, the same for all candidates."""

    context_tokens: tuple[int, ...] = (256, 384)
    """Context lengths; one is drawn a generation."""

    intervals: tuple[int, ...] = (64, 128)
    """Update intervals in tokens; one is drawn a generation."""

    statistics: tuple[StatisticsMode, ...] = ("source",)
    """Feature statistics; one is drawn a generation. Only "source" and "sequence" exist on a source."""

    price: float = 0.5
    """Fitness lost per kept fraction: 0.5 trades 2% of slots for 1% of the full cache's score."""

    budget_fraction: float | None = None
    """Most slots a head may keep, as a fraction of the context; None leaves the size to the threshold alone. With a
    cap every head must choose tokens; without one a NAMM may keep all of a few heads and nothing of the others."""

    protected_last: int = 1
    """Newest tokens that are never evicted."""

    validation_prompts: int = 48
    """Prompts a task, context length and interval in a validation of the mean."""

    def __post_init__(self) -> None:
        for name in self.tasks:
            get_task(name)
        for mode in self.statistics:
            check_statistics_mode(mode)
        if "target" in self.statistics:
            raise ConfigError("statistics='target' is meaningless on the source itself; use 'source' or 'sequence'.")
        if self.budget_fraction is not None and not 0.0 < self.budget_fraction <= 1.0:
            raise ConfigError(f"budget_fraction must lie in (0, 1], found {self.budget_fraction}.")
        shortest = min(self.context_tokens)
        if shortest < max(self.intervals):
            raise ConfigError(
                f"Contexts of {shortest} tokens never reach an update of interval {max(self.intervals)}; lengthen the "
                "shortest context or shorten the longest interval."
            )


class RecallFitness:
    """Scores populations of NAMM parameters on a text model; the pair of callables that evolution asks for."""

    def __init__(self, model: PreTrainedModel, namm: NAMM, config: RecallFitnessConfig) -> None:
        """A fitness.

        Args:
            model: The source.
            namm: Config and source statistics; its parameters are not used.
            config: What candidates are judged on.
        """
        self.model, self.namm, self.config = model, namm, config

    def __call__(self, candidates: Float[Tensor, "population params"], generation: int, seed: int) -> FitnessReport:
        """Mean over tasks of the score relative to the full cache, less the price of what was kept."""
        config = self.config
        draw = np.random.default_rng(seed)
        tokens = int(draw.choice(config.context_tokens))
        interval = int(draw.choice(config.intervals))
        statistics = config.statistics[int(draw.integers(len(config.statistics)))]
        prompt_seed = train_seed(int(draw.integers(2**30)))
        scores, kept = [], []
        for name in config.tasks:
            prompts = get_task(name).sample(config.prompts, tokens, prompt_seed)
            reference = float(self._full(prompts, interval).accuracy.mean())
            result = self._population(candidates, prompts, interval, statistics)
            accuracy = result.accuracy.view(len(candidates), -1).mean(1)
            scores.append(accuracy / max(reference, SMALLEST_REFERENCE))
            kept.append(result.slots.view(len(candidates), -1).mean(1) / tokens)
        relative, fraction = torch.stack(scores).mean(0), torch.stack(kept).mean(0)
        extras = {
            "relative_score": relative.mean(),
            "kept_fraction": fraction.mean(),
            "context_tokens": tokens,
            "interval": interval,
            "statistics": statistics,
        }
        return FitnessReport(relative - config.price * fraction, extras)

    def validate(self, mean: Float[Tensor, " params"], generation: int) -> ValidationReport:
        """The mean on fixed validation prompts, over every combination of length, interval and statistics."""
        config = self.config
        rows: dict[str, float] = {}
        fitness = []
        for tokens in config.context_tokens:
            for interval in config.intervals:
                for statistics in config.statistics:
                    relative, kept = [], []
                    for name in config.tasks:
                        prompts = get_task(name).sample(config.validation_prompts, tokens, validation_seed(0))
                        reference = float(self._full(prompts, interval).accuracy.mean())
                        result = self._population(mean[None], prompts, interval, statistics)
                        relative.append(float(result.accuracy.mean()) / max(reference, SMALLEST_REFERENCE))
                        kept.append(result.kept_fraction)
                        rows[f"{name}_{tokens}_{interval}_{statistics}"] = relative[-1]
                    score, fraction = float(np.mean(relative)), float(np.mean(kept))
                    rows[f"kept_{tokens}_{interval}_{statistics}"] = fraction
                    fitness.append((score - config.price * fraction, score, fraction))
        value, score, fraction = (float(part) for part in np.mean(fitness, axis=0))
        return ValidationReport(value, {"relative_score": score, "kept_fraction": fraction, **rows})

    def _full(self, prompts: TextPrompts, interval: int) -> Recall:
        return recall(self.model, make_policy("full"), prompts.context, prompts.question, prompts.target)

    def _population(
        self, candidates: Float[Tensor, "population params"], prompts: TextPrompts, interval: int, mode: StatisticsMode
    ) -> Recall:
        """Every candidate on every prompt, candidate by candidate, in one batch."""
        population, count = len(candidates), len(prompts.context)
        candidate = torch.arange(population).repeat_interleave(count)
        fraction = self.config.budget_fraction
        policy = make_policy(
            "namm", namm=self.namm, statistics=mode, interval=interval, protected_last=self.config.protected_last,
            budget=None if fraction is None else max(1, round(fraction * prompts.context.shape[1])),
            population=candidates.to(self.model.device), candidate=candidate.to(self.model.device),
        )  # fmt: skip
        context, question, target = (
            part.to(self.model.device).repeat(population, 1)
            for part in (prompts.context, prompts.question, prompts.target)
        )
        return recall(self.model, policy, context, question, target, copies=population)


@torch.inference_mode()
def source_statistics(
    model: PreTrainedModel, namm: NAMM, tasks: Sequence[str], context_tokens: int, interval: int, prompts: int = 32
) -> FeatureStatistics:
    """Feature statistics of a source model: one full-cache pass over training prompts, pooled over layers.

    Args:
        model: The source.
        namm: Whose features are measured.
        tasks: Recall tasks whose prompts are read.
        context_tokens: Their length.
        interval: Tokens between updates.
        prompts: Prompts a task.
    """
    calibration = Calibration(namm, interval, model.config.num_hidden_layers)
    with attach(model.base_model, calibration):
        for index, name in enumerate(tasks):
            context = get_task(name).sample(prompts, context_tokens, train_seed(index)).context
            model.base_model(input_ids=context.to(model.device), use_cache=True)
    return calibration.statistics(pooled=True)
