"""Fitness by acting: how well a Decision Transformer does under forgetting, less the price of what it held.

Every candidate plays the same episodes, all candidates in one batch: a row's sequence identity names its candidate. So
a NAMM can be evolved where it acts, and tried on text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.tasks import register_all
from modalities import attach
from modalities.control.agents import ControlModel, IncrementalAgent
from modalities.control.rollout import rollout
from namm import NAMM, Memory
from namm.errors import ConfigError
from namm.evolution.scoring import FitnessReport, ValidationReport
from namm.features import StatisticsMode
from namm.policies import make_policy

TRAIN_SEEDS, VALIDATION_SEEDS = 20_000_000, 30_000_000
"""First reset seeds: neither is scored by any experiment."""
TOKENS_PER_STEP = 3


@dataclass(frozen=True)
class ControlSource:
    """A Decision Transformer and the episodes that candidates play."""

    control: ControlModel
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Over those that its checkpoint names."""
    episodes: int = 8
    """A generation."""
    validation: int = 64
    """Episodes of a validation."""

    def __post_init__(self) -> None:
        if self.control.facts.target_return is None:
            raise ConfigError("Expected a checkpoint that says which return to ask for, found none; add it.")


class ControlFitness:
    """Scores populations of NAMM parameters; the pair of callables that evolution asks for.

    Args:
        source: Who acts where.
        namm: Config and source statistics; its parameters are not used.
        price: Fitness lost per kept fraction, where a success is worth 1.
        interval: Tokens between two updates.
        statistics: In force for every candidate.
    """

    def __init__(
        self,
        source: ControlSource,
        namm: NAMM,
        price: float,
        interval: int = 48,
        statistics: StatisticsMode = "sequence",
    ) -> None:
        register_all()
        self.source, self.namm, self.price = source, namm, price
        self.interval, self.statistics = interval, statistics

    def __call__(self, candidates: Float[Tensor, "population params"], generation: int, seed: int) -> FitnessReport:
        """Share of successes, less the price of what was held on average."""
        first = TRAIN_SEEDS + int(np.random.default_rng(seed).integers(1_000_000)) * self.source.episodes
        success, kept = self._play(candidates, range(first, first + self.source.episodes))
        return FitnessReport(success - self.price * kept, {}, {"success": success, "kept_fraction": kept})

    def validate(self, mean: Float[Tensor, " params"], generation: int) -> ValidationReport:
        """The mean on episodes that no fitness has seen."""
        seeds = range(VALIDATION_SEEDS, VALIDATION_SEEDS + self.source.validation)
        success, kept = (float(found[0]) for found in self._play(mean[None], seeds))
        return ValidationReport(success - self.price * kept, {"success": success, "kept_fraction": kept})

    def _play(
        self, candidates: Float[Tensor, "population params"], seeds: Sequence[int]
    ) -> tuple[Float[Tensor, " population"], Float[Tensor, " population"]]:
        """Success and kept fraction of each candidate, mean over the episodes."""
        population, facts, control = len(candidates), self.source.control.facts, self.source.control
        policy = make_policy(
            "namm", namm=self.namm, statistics=self.statistics, interval=self.interval,
            protected_last=TOKENS_PER_STEP, population=candidates.to(control.device),
            candidate=torch.arange(population, device=control.device).repeat_interleave(len(seeds)),
        )  # fmt: skip
        with attach(control.model.encoder, policy) as memory:
            held = _Held(memory, population * len(seeds))
            assert facts.target_return is not None  # checked with the source
            played = rollout(
                IncrementalAgent(control, memory=memory), facts.env_id, [*seeds] * population, facts.target_return,
                env_kwargs={**facts.env_kwargs, **self.source.env_kwargs}, on_step=held, lanes=1,
            )  # fmt: skip
        scores = [float(e.total if e.success is None else e.success) for e in played.episodes]
        lengths = np.array([episode.length for episode in played.episodes])
        seen = np.array([np.mean(TOKENS_PER_STEP * np.arange(length) + 2) for length in lengths])
        kept = held.slots / lengths / seen
        return tuple(  # pyright: ignore[reportReturnType]
            torch.tensor(np.asarray(values).reshape(population, -1).mean(axis=1)) for values in (scores, kept)
        )


class _Held:
    """Slots per KV head, summed over the steps of each episode."""

    def __init__(self, memory: Memory, episodes: int) -> None:
        self.memory, self.slots = memory, np.zeros(episodes)

    def __call__(self, step: int, live: list[int]) -> None:
        """After the actions of a step."""
        self.slots[live] += self.memory.slots().float().mean(dim=(1, 2)).cpu().numpy()
