"""Candidates are judged by episodes: each plays all of them, and what it holds is what a rollout of its own holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluations.control.holdings import MemoryHoldings
from evaluations.control.shipped import SHIPPED_FOLDER
from evaluations.evolution.control_fitness import VALIDATION_SEEDS, ControlFitness, ControlSource
from modalities import attach
from modalities.control.agents import ControlModel, IncrementalAgent
from modalities.control.rollout import rollout
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.policies import make_policy

CONFIG = NAMMConfig(interval=48, signals=("spectrogram", "key_difference"), trained_statistics="sequence")
PARAMS = NAMM(CONFIG).flat.numel()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source() -> ControlSource:
    control = ControlModel.load(SHIPPED_FOLDER / "tmaze")
    return ControlSource(control, {"corridor_steps": 50}, episodes=2, validation=2)


def test_a_population_is_scored_as_each_of_it_alone(source: ControlSource) -> None:
    fitness = ControlFitness(source, NAMM(CONFIG), price=0.5)
    drawn = torch.randn(2, PARAMS, generator=torch.Generator().manual_seed(0)) * 0.3
    candidates = torch.cat([torch.zeros(1, PARAMS), drawn])
    together = fitness(candidates, 0, seed=3)
    alone = torch.cat([fitness(candidate[None], 0, seed=3).fitness for candidate in candidates])
    torch.testing.assert_close(together.fitness, alone, atol=1e-6, rtol=0)
    assert together.candidates["kept_fraction"][0] == pytest.approx(1.0), "zeros keep everything"
    assert together.fitness[0] == pytest.approx(float(together.candidates["success"][0]) - 0.5)
    assert min(together.candidates["kept_fraction"]) < 0.95


def test_what_is_held_is_what_the_experiment_measures(source: ControlSource) -> None:
    flat = torch.randn(PARAMS, generator=torch.Generator().manual_seed(0)) * 0.3
    found = ControlFitness(source, NAMM(CONFIG), price=0.5).validate(flat, 0)
    policy = make_policy("namm", namm=NAMM(CONFIG, flat), statistics="sequence", interval=48, protected_last=3)
    held: list[list[float]] = [[], []]
    facts = source.control.facts
    with attach(source.control.model.encoder, policy) as memory:
        holdings = MemoryHoldings(memory)

        def look(step: int, live: list[int]) -> None:
            for episode, slots in zip(live, holdings.slots(), strict=True):
                held[episode].append(float(slots))

        seeds = [VALIDATION_SEEDS, VALIDATION_SEEDS + 1]
        options = {**facts.env_kwargs, **source.env_kwargs}
        agent = IncrementalAgent(source.control, memory=memory)
        played = rollout(agent, facts.env_id, seeds, 1.0, env_kwargs=options, on_step=look, lanes=1)
    seen = [np.mean(3 * np.arange(episode.length) + 2) for episode in played.episodes]
    expected = np.mean([np.mean(slots) / tokens for slots, tokens in zip(held, seen, strict=True)])
    assert found.extras["kept_fraction"] == pytest.approx(expected, abs=1e-5)
    assert found.extras["success"] == np.mean([bool(episode.success) for episode in played.episodes])


def test_a_checkpoint_must_say_what_to_ask_for(source: ControlSource) -> None:
    facts = replace(source.control.facts, target_return=None)
    with pytest.raises(ConfigError, match="which return to ask for"):
        ControlSource(ControlModel(source.control.model, facts))
