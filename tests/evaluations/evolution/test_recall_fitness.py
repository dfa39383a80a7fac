"""What candidates are judged on: statistics varied, several sources, presets; all from the generation's seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluations.evolution.recall_fitness import PRESETS, RecallFitness, RecallFitnessConfig, fitness_preset
from evaluations.evolution.source_statistics import random_factors, rescaled, source_statistics
from evaluations.evolve import EvolveConfig, load_source
from evaluations.tasks.recall.corpus import default_vocabulary
from namm import NAMM
from namm.calibration import with_statistics
from namm.errors import ConfigError, UnknownNameError
from namm.features import FeatureStatistics

SMALL = RecallFitnessConfig(
    tasks=("pairs", "copy"), prompts=2, context_tokens=(96,), intervals=(32,), validation_prompts=2, price=0.5
)


def random_llama(seed: int, vocabulary: int | None = None) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary or default_vocabulary().size, hidden_size=32, intermediate_size=48,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return random_llama(0)


@pytest.fixture(scope="module")
def namm(model: LlamaForCausalLM) -> NAMM:
    plain = NAMM()
    return with_statistics(plain, source_statistics(model, plain, SMALL.tasks, 96, 32, prompts=8))


@pytest.fixture(scope="module")
def candidates() -> torch.Tensor:
    return torch.randn(3, 4172, generator=torch.Generator().manual_seed(1)) * 0.3


def kept(fitness: RecallFitness, candidates: torch.Tensor, seed: int = 5) -> float:
    return float(fitness(candidates, 1, seed).candidates["kept_fraction"].mean())


def test_factors_are_log_normal_with_the_asked_spread_and_shared_by_layers_and_bins() -> None:
    draws = torch.stack([random_factors(np.random.default_rng(seed), 4, 17, 0.5) for seed in range(400)]).log()
    assert draws.std(0).mean() == pytest.approx(0.5, abs=0.05)
    across_layers = (draws[:, 0] - draws[:, 1]).std(0).mean()  # what is common to all, and the bins' share, cancel
    assert across_layers == pytest.approx(0.5 * (2 / 3) ** 0.5, abs=0.05)
    assert torch.equal(random_factors(np.random.default_rng(3), 2, 17, 0.0), torch.ones(2, 17))


def test_rescaled_statistics_are_those_of_a_model_that_attends_more_strongly() -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.rand(50, 17, generator=generator)
    factors = random_factors(np.random.default_rng(0), 3, 17, 1.0)
    own = FeatureStatistics(spectrum.mean(0, keepdim=True), spectrum.std(0, keepdim=True))
    mean, deviation = rescaled(own, factors).of_layer(1)
    torch.testing.assert_close((spectrum * factors[1] - mean) / deviation, (spectrum - own.mean) / own.deviation)


@pytest.mark.slow
def test_random_factors_change_what_is_kept_and_come_from_the_generations_seed(
    model: LlamaForCausalLM, namm: NAMM, candidates: torch.Tensor
) -> None:
    plain = RecallFitness(model, namm, SMALL)
    varied = RecallFitness(model, namm, dataclasses.replace(SMALL, rescale=1.0))
    assert kept(varied, candidates) != kept(plain, candidates)
    assert torch.equal(varied(candidates, 1, 5).fitness, varied(candidates, 9, 5).fitness)
    # sequence statistics know no scale, so factors cannot change them
    own = dataclasses.replace(SMALL, statistics=("sequence",))
    assert kept(RecallFitness(model, namm, dataclasses.replace(own, rescale=1.0)), candidates) == kept(
        RecallFitness(model, namm, own), candidates
    )


def test_the_source_may_be_seen_as_a_target_with_statistics_of_its_own_layers(
    model: LlamaForCausalLM, namm: NAMM, candidates: torch.Tensor
) -> None:
    as_target = RecallFitness(model, namm, dataclasses.replace(SMALL, statistics=("target",)))
    assert kept(as_target, candidates) != kept(RecallFitness(model, namm, SMALL), candidates)
    per_layer = source_statistics(model, namm, SMALL.tasks, 96, 32, pooled=False)
    assert per_layer.mean.shape == (2, 17)
    assert as_target(candidates, 1, 5).extras["statistics"] == "target"


@pytest.mark.slow
def test_with_several_sources_the_fitness_is_their_mean_each_with_its_own_statistics(
    model: LlamaForCausalLM, namm: NAMM, candidates: torch.Tensor
) -> None:
    other = random_llama(7)
    both = RecallFitness([model, other], namm, SMALL)(candidates, 1, 5).fitness
    one = RecallFitness(model, namm, SMALL)(candidates, 1, 5).fitness
    its_own = with_statistics(namm, source_statistics(other, namm, SMALL.tasks, 96, 32))
    two = RecallFitness(other, its_own, SMALL)(candidates, 1, 5).fitness
    assert not torch.allclose(one, two)
    torch.testing.assert_close(both, (one + two) / 2)
    rows = RecallFitness([model, other], namm, SMALL).validate(candidates[0], 1).extras
    assert {"pairs_96_32_source", "pairs_96_32_source_source1"} <= set(rows)


def test_a_validation_sees_every_condition_and_the_same_factors_each_time(
    model: LlamaForCausalLM, namm: NAMM, candidates: torch.Tensor
) -> None:
    config = dataclasses.replace(
        SMALL, tasks=("pairs",), intervals=(32, 48), statistics=("source", "sequence"), rescale=0.5
    )
    fitness = RecallFitness(model, namm, config)
    report = fitness.validate(candidates[0], 1)
    assert {key for key in report.extras if key.startswith("kept_") and key != "kept_fraction"} == {
        "kept_96_32_source", "kept_96_32_source_rescaled", "kept_96_32_sequence",
        "kept_96_48_source", "kept_96_48_source_rescaled", "kept_96_48_sequence",
    }  # fmt: skip
    assert fitness.validate(candidates[0], 50) == report
    by_hand = np.mean([report.extras[key] for key in report.extras if key.startswith("pairs_")])
    assert report.extras["relative_score"] == pytest.approx(by_hand)
    assert report.score == pytest.approx(by_hand - 0.5 * report.extras["kept_fraction"])


def test_the_papers_fitness_asks_many_prompts_at_the_released_interval_and_prices_nothing() -> None:
    paper = PRESETS["paper"]
    assert (paper.prompts, paper.intervals, paper.price, paper.budget_fraction) == (64, (512,), 0.0, None)
    assert fitness_preset("robust", prompts=3).prompts == 3
    with pytest.raises(UnknownNameError, match="Did you mean 'robust'"):
        fitness_preset("robsut")


def test_keeping_everything_is_worth_the_full_cache_less_the_price() -> None:
    model = load_source(EvolveConfig().model, torch.float32)
    report = RecallFitness(model, NAMM(), SMALL)(torch.zeros(1, 4172), 1, 3)
    assert report.fitness[0] == pytest.approx(0.5)


def test_sources_that_cannot_read_the_prompts_and_impossible_spreads_are_refused() -> None:
    with pytest.raises(ConfigError, match="838 different tokens, found a source of 100"):
        RecallFitness(random_llama(0, vocabulary=100), NAMM(), SMALL)
    with pytest.raises(ConfigError, match="at least one source"):
        RecallFitness([], NAMM(), SMALL)
    with pytest.raises(ConfigError, match="spread of 0 or more"):
        RecallFitnessConfig(rescale=-0.1)
