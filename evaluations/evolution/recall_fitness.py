"""Fitness on text: how well prompts are answered under each candidate's forgetting, beside the full cache.

All candidates of a generation answer the same prompts, side by side in one batch; what the score is compared with is
the same model with its full cache on the same prompts. What a generation draws (interval, context length, feature
statistics and their factors, prompts) comes from its seed alone and is the same for every candidate and source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.evolution.source_statistics import random_factors, rescaled, source_statistics
from evaluations.tasks.recall.corpus import default_vocabulary
from evaluations.tasks.recall.tasks import SHIPPED_TASKS, TextPrompts, get_task, train_seed, validation_seed
from modalities.language.recall import Recall, recall
from namm import NAMM
from namm.errors import ConfigError, UnknownNameError, did_you_mean
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

    tasks: tuple[str, ...] = SHIPPED_TASKS
    """Names of recall tasks; the fitness is the mean over them."""

    prompts: int = 8
    """Prompts a task and generation, the same for all candidates."""

    context_tokens: tuple[int, ...] = (256, 384)
    """Context lengths; one is drawn a generation."""

    intervals: tuple[int, ...] = (64, 128)
    """Update intervals in tokens; one is drawn a generation."""

    statistics: tuple[StatisticsMode, ...] = ("source",)
    """Feature statistics; one is drawn a generation. "target" is the source seen as a target: its own, one pair a
    layer."""

    rescale: float = 0.0
    """Spread (standard deviation of the logarithm) of the random factors that each generation multiplies frozen
    statistics by, as if it stood before another model; 0 leaves them as measured. A validation then sees both."""

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
        for name in ("prompts", "validation_prompts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}; raise it.")
        if self.rescale < 0.0:
            raise ConfigError(f"rescale is a spread of 0 or more, found {self.rescale}; 0 leaves statistics alone.")
        if self.budget_fraction is not None and not 0.0 < self.budget_fraction <= 1.0:
            raise ConfigError(f"budget_fraction must lie in (0, 1], found {self.budget_fraction}.")
        shortest = min(self.context_tokens)
        if shortest < max(self.intervals):
            raise ConfigError(
                f"Contexts of {shortest} tokens never reach an update of interval {max(self.intervals)}; lengthen the "
                "shortest context or shorten the longest interval."
            )


PRESETS: MappingProxyType[str, RecallFitnessConfig] = MappingProxyType(
    {
        # every head has a price, so the size is part of what is searched
        "fast": RecallFitnessConfig(),
        # the published fitness: many prompts, one interval, the released one, and nothing for being small
        "paper": RecallFitnessConfig(
            prompts=64, context_tokens=(1024,), intervals=(512,), price=0.0, validation_prompts=64
        ),
        # sizes, statistics and intervals all vary, for a NAMM that is to be attached elsewhere
        "robust": RecallFitnessConfig(
            context_tokens=(256, 384), intervals=(48, 64, 96, 128), statistics=("source", "target"), rescale=0.5
        ),
    }
)
"""What candidates are judged on, by name."""


def fitness_preset(name: str, **changes: object) -> RecallFitnessConfig:
    """A named fitness, with some fields changed.

    Raises:
        UnknownNameError: There is no such preset.
    """
    if name not in PRESETS:
        raise UnknownNameError(f"No fitness preset {name!r}. {did_you_mean(name, PRESETS)}")
    return replace(PRESETS[name], **changes)


@dataclass(frozen=True)
class _Source:
    """A model that candidates are judged on, and its feature statistics."""

    model: PreTrainedModel
    pooled: FeatureStatistics
    per_layer: FeatureStatistics | None

    def statistics(
        self, mode: StatisticsMode, factors_seed: int | None, spread: float
    ) -> tuple[StatisticsMode, FeatureStatistics | None]:
        """The policy's mode and what it is given, with factors drawn from a seed if there is one."""
        if mode == "sequence":
            return mode, None
        known = self.pooled if mode == "source" else self.per_layer
        assert known is not None  # measured for every mode that the config names
        if factors_seed is not None:
            layers, bins = self.model.config.num_hidden_layers, known.mean.shape[-1]
            known = rescaled(known, random_factors(np.random.default_rng(factors_seed), layers, bins, spread))
        return "target", known


@dataclass(frozen=True)
class _Condition:
    """What a policy meets apart from the prompts."""

    interval: int
    statistics: StatisticsMode
    factors_seed: int | None = None


class RecallFitness:
    """Scores populations of NAMM parameters on text models; the pair of callables that evolution asks for."""

    def __init__(
        self, model: PreTrainedModel | Sequence[PreTrainedModel], namm: NAMM, config: RecallFitnessConfig
    ) -> None:
        """A fitness.

        Args:
            model: The source, or several: then the fitness is the mean over them, each with its own statistics.
            namm: Config and source statistics; its parameters are not used. Its statistics are those of the first
                source; the others' are measured here.
            config: What candidates are judged on.

        Raises:
            ConfigError: A model cannot read the recall vocabulary.
        """
        self.namm, self.config = namm, config
        self._known: tuple[int, dict[tuple[int, str], float]] = (-1, {})
        models = list(model) if isinstance(model, Sequence) else [model]
        if not models:
            raise ConfigError("A fitness needs at least one source model, found none; name one.")
        needed = default_vocabulary().size
        for source in models:
            if source.config.vocab_size < needed:
                raise ConfigError(
                    f"Recall prompts hold {needed} different tokens, found a source of {source.config.vocab_size}; "
                    "take a model with the shipped recall-llama's vocabulary."
                )
        self.sources = tuple(
            _Source(
                source,
                namm.statistics if index == 0 else self._measured(source, pooled=True),
                self._measured(source, pooled=False) if "target" in config.statistics else None,
            )
            for index, source in enumerate(models)
        )

    def __call__(self, candidates: Float[Tensor, "population params"], generation: int, seed: int) -> FitnessReport:
        """Mean over tasks and sources of the score relative to the full cache, less the price of what was kept."""
        config = self.config
        draw = np.random.default_rng(seed)
        tokens = int(draw.choice(config.context_tokens))
        interval = int(draw.choice(config.intervals))
        statistics = config.statistics[int(draw.integers(len(config.statistics)))]
        prompt_seed = train_seed(int(draw.integers(2**30)))
        condition = _Condition(interval, statistics, int(draw.integers(2**30)) if config.rescale else None)
        scores, kept = [], []
        for source, name in product(self.sources, config.tasks):
            prompts = get_task(name).sample(config.prompts, tokens, prompt_seed)
            reference = self._reference(source, name, prompts, seed)
            result = self._population(source, candidates, prompts, condition)
            accuracy = result.accuracy.view(len(candidates), -1).mean(1)
            scores.append(accuracy / max(reference, SMALLEST_REFERENCE))
            kept.append(result.slots.view(len(candidates), -1).mean(1) / tokens)
        relative, fraction = torch.stack(scores).mean(0), torch.stack(kept).mean(0)
        drawn = {"context_tokens": tokens, "interval": interval, "statistics": statistics}
        each = {"relative_score": relative, "kept_fraction": fraction}
        return FitnessReport(relative - config.price * fraction, drawn, each)

    def validate(self, mean: Float[Tensor, " params"], generation: int) -> ValidationReport:
        """The mean on fixed validation prompts, over every combination of length, interval and statistics."""
        config = self.config
        rows: dict[str, float] = {}
        fitness = []
        for tokens, condition in product(config.context_tokens, self._validation_conditions()):
            label = f"{tokens}_{condition.interval}_{condition.statistics}"
            label += "" if condition.factors_seed is None else "_rescaled"
            relative, kept = [], []
            for index, source in enumerate(self.sources):
                for name in config.tasks:
                    prompts = get_task(name).sample(config.validation_prompts, tokens, validation_seed(0))
                    reference = float(_full(source, prompts).accuracy.mean())
                    result = self._population(source, mean[None], prompts, condition)
                    relative.append(float(result.accuracy.mean()) / max(reference, SMALLEST_REFERENCE))
                    kept.append(result.kept_fraction)
                    rows[f"{name}_{label}" + (f"_source{index}" if index else "")] = relative[-1]
            score, fraction = float(np.mean(relative)), float(np.mean(kept))
            rows[f"kept_{label}"] = fraction
            fitness.append((score - config.price * fraction, score, fraction))
        value, score, fraction = (float(part) for part in np.mean(fitness, axis=0))
        return ValidationReport(value, {"relative_score": score, "kept_fraction": fraction, **rows})

    def _reference(self, source: _Source, task: str, prompts: TextPrompts, seed: int) -> float:
        """The full cache's score, which the parts of a population have in common."""
        if self._known[0] != seed:
            self._known = (seed, {})
        found, key = self._known[1], (id(source), task)
        if key not in found:
            found[key] = float(_full(source, prompts).accuracy.mean())
        return found[key]

    def _validation_conditions(self) -> Iterator[_Condition]:
        for number, (interval, statistics) in enumerate(product(self.config.intervals, self.config.statistics)):
            yield _Condition(interval, statistics)
            if self.config.rescale and statistics != "sequence":
                yield _Condition(interval, statistics, factors_seed=number)

    def _measured(self, model: PreTrainedModel, pooled: bool) -> FeatureStatistics:
        config = self.config
        tokens, interval = max(config.context_tokens), min(config.intervals)
        return source_statistics(model, self.namm, config.tasks, tokens, interval, pooled=pooled)

    def _population(
        self, source: _Source, candidates: Float[Tensor, "population params"], prompts: TextPrompts,
        condition: _Condition,
    ) -> Recall:  # fmt: skip
        """Every candidate on every prompt, candidate by candidate, in one batch."""
        population, count, device = len(candidates), len(prompts.context), source.model.device
        candidate = torch.arange(population).repeat_interleave(count)
        fraction = self.config.budget_fraction
        mode, statistics = source.statistics(condition.statistics, condition.factors_seed, self.config.rescale)
        policy = make_policy(
            "namm", namm=self.namm, statistics=mode, target_statistics=statistics, interval=condition.interval,
            protected_last=self.config.protected_last,
            budget=None if fraction is None else max(1, round(fraction * prompts.context.shape[1])),
            population=candidates.to(device), candidate=candidate.to(device),
        )  # fmt: skip
        parts = (prompts.context, prompts.question, prompts.target)
        context, question, target = (part.to(device).repeat(population, 1) for part in parts)
        return recall(source.model, policy, context, question, target, copies=population)


def _full(source: _Source, prompts: TextPrompts) -> Recall:
    device = source.model.device
    context, question, target = prompts.context.to(device), prompts.question.to(device), prompts.target.to(device)
    return recall(source.model, make_policy("full"), context, question, target)
