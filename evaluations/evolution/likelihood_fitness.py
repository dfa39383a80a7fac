"""Fitness by likelihood: how likely the right answer is under forgetting, beside the full cache on the same prompt.

A prompt's score is the ratio of the two likelihoods a token, at most 1: one over the factor by which forgetting raises
the perplexity of the answer, or of running text. It is dense, paired, and has one unit for every task and source, so
several sources and kinds of prompts may be averaged. What was kept of the context has its price. How much is kept can
be taken out of the numbers' hands besides: then every candidate has the threshold at which it keeps a wanted part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.tasks.lessons import Course, Lesson, draw_lessons
from modalities.language.recall import Recall, recall
from namm import NAMM
from namm.errors import ConfigError
from namm.evolution.scoring import FitnessReport, ValidationReport
from namm.features import StatisticsMode
from namm.policies import Policy, make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VALIDATION_SEED = 1
"""Of the validation prompts, which come from seeds and documents of their own."""

Sizing = Callable[[Float[Tensor, "population params"]], Float[Tensor, "population params"]]
"""Moves each candidate's threshold to 0."""


@dataclass(frozen=True)
class LikelihoodSource:
    """A model, and what it is asked."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    course: Course
    prompts: int
    """A generation."""

    validation: int
    """Prompts of a validation."""


class LikelihoodFitness:
    """Scores populations of NAMM parameters; the pair of callables that evolution asks for."""

    def __init__(
        self,
        sources: Sequence[LikelihoodSource],
        namm: NAMM,
        price: float,
        statistics: StatisticsMode = "sequence",
        sizes: Sequence[Sizing] | None = None,
    ) -> None:
        """A fitness.

        Args:
            sources: The fitness is the mean over them.
            namm: Config and source statistics; its parameters are not used.
            price: Fitness lost per kept fraction.
            statistics: In force for every candidate.
            sizes: For each source what gives candidates the thresholds at which they keep what is wanted, such as
                `evaluations.hindsight.equal_size`; None leaves thresholds as they are.

        Raises:
            ConfigError: No source, or not a size for each.
        """
        if not sources:
            raise ConfigError("A fitness needs at least one source model, found none; name one.")
        if sizes is not None and len(sizes) != len(sources):
            raise ConfigError(f"Expected a size for each of {len(sources)} sources, found {len(sizes)}.")
        self.sources, self.namm, self.price, self.statistics = tuple(sources), namm, price, statistics
        self._full: dict[tuple[int, Lesson], float] = {}
        self._sizes = sizes

    def __call__(self, candidates: Float[Tensor, "population params"], generation: int, seed: int) -> FitnessReport:
        """Mean over sources and prompts of the likelihood ratio, less the price of what was kept."""
        draw = np.random.default_rng(seed)
        ratios, kept = [], []
        for index, source in enumerate(self.sources):
            drawn, first = int(draw.integers(500_000)), int(draw.integers(len(source.course.tasks)))
            lessons = draw_lessons(source.course, source.tokenizer, source.prompts, drawn, "train", first)
            sized = self._sized(index, candidates)
            pairs = [self._population(index, sized, lesson) for lesson in lessons]
            ratios.append(torch.stack([ratio for ratio, _ in pairs]).mean(0))
            kept.append(torch.stack([fraction for _, fraction in pairs]).mean(0))
        self._full.clear()  # a generation's prompts never come again
        ratio, fraction = torch.stack(ratios).mean(0), torch.stack(kept).mean(0)
        each = {"likelihood_ratio": ratio, "kept_fraction": fraction}
        return FitnessReport(ratio - self.price * fraction, {}, each)

    def validate(self, mean: Float[Tensor, " params"], generation: int) -> ValidationReport:
        """The mean on the validation prompts of every source."""
        found: dict[str, float] = {}
        ratios, kept = [], []
        for index, source in enumerate(self.sources):
            lessons = draw_lessons(source.course, source.tokenizer, source.validation, VALIDATION_SEED, "validation")
            sized = self._sized(index, mean[None])
            pairs = [self._population(index, sized, lesson) for lesson in lessons]
            ratios.append(float(np.mean([float(ratio) for ratio, _ in pairs])))
            kept.append(float(np.mean([float(fraction) for _, fraction in pairs])))
            found |= {f"likelihood_ratio_{index}": ratios[-1], f"kept_fraction_{index}": kept[-1]}
        ratio, fraction = float(np.mean(ratios)), float(np.mean(kept))
        found |= {"likelihood_ratio": ratio, "kept_fraction": fraction}
        return ValidationReport(ratio - self.price * fraction, found)

    def _sized(self, index: int, candidates: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        return candidates if self._sizes is None else self._sizes[index](candidates)

    def _population(
        self, index: int, candidates: Float[Tensor, "population params"], lesson: Lesson
    ) -> tuple[Float[Tensor, " population"], Float[Tensor, " population"]]:
        """Likelihood ratio and kept fraction of each candidate on one prompt."""
        model, count = self.sources[index].model, len(candidates)
        key = (index, lesson)
        if key not in self._full:
            self._full[key] = float(asked_under(model, make_policy("full"), lesson).log_likelihood[0])
        policy = make_policy(
            "namm", namm=self.namm, interval=lesson.interval, statistics=self.statistics,
            population=candidates.to(model.device), candidate=torch.arange(count, device=model.device),
        )  # fmt: skip
        result = asked_under(model, policy, lesson, count)
        ratio = (result.log_likelihood - self._full[key]).clamp_max(0.0).exp()
        return ratio, result.slots / result.context_tokens


def asked_under(model: PreTrainedModel, policy: Policy, lesson: Lesson, copies: int = 1) -> Recall:
    """A prompt's answer under a policy.

    Args:
        model: Who answers.
        policy: Governs the cache.
        lesson: The prompt.
        copies: Rows, which the policy may judge differently.
    """
    parts = (part.to(model.device).repeat(copies, 1) for part in lesson.asked())
    return recall(model, policy, *parts, copies=copies)
