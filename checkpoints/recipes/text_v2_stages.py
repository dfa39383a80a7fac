"""The stages of text-v2's curriculum, each an evolution that starts where another ended."""

from __future__ import annotations

from dataclasses import dataclass

from evaluations.evolution.recall_fitness import RecallFitnessConfig


@dataclass(frozen=True)
class Stage:
    """One evolution of the recipe."""

    fitness: RecallFitnessConfig
    """What it was evolved on."""

    generations: int
    """Generations."""

    seed: int
    """Seed of candidates and prompts."""

    sigma: float
    """Initial step size."""

    after: str | None = None
    """Stage whose result it starts from; None starts from nothing."""


STAGES = {
    "capped": Stage(
        RecallFitnessConfig(
            prompts=2, context_tokens=(288,), intervals=(48, 96), price=0.3, budget_fraction=0.35, validation_prompts=24
        ),
        generations=165, seed=1, sigma=0.2,
    ),
    "opened": Stage(
        RecallFitnessConfig(
            prompts=3, context_tokens=(288,), intervals=(32, 48, 96, 144), price=0.25, rescale=0.3,
            validation_prompts=16,
        ),
        generations=26, seed=2, sigma=0.1, after="capped",
    ),
    "refined": Stage(
        RecallFitnessConfig(
            prompts=2, context_tokens=(288,), intervals=(48, 96), price=0.3, rescale=0.2, validation_prompts=24
        ),
        generations=65, seed=3, sigma=0.05, after="opened",
    ),
    "annealed": Stage(
        RecallFitnessConfig(
            prompts=3, context_tokens=(288,), intervals=(48, 96), price=0.25, rescale=0.2, validation_prompts=32
        ),
        generations=24, seed=4, sigma=0.02, after="refined",
    ),
    "settled": Stage(
        RecallFitnessConfig(
            prompts=3, context_tokens=(288,), intervals=(32, 48, 96), price=0.12, rescale=0.2, validation_prompts=20
        ),
        generations=400, seed=5, sigma=0.02, after="annealed",
    ),
}  # fmt: skip
"""Each continues one before it."""
