"""Likelihood as fitness: a population scores as its candidates do, keeping all loses nothing, keeping has its price."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluations.evolution.likelihood_fitness import LikelihoodFitness, LikelihoodSource
from evaluations.tasks.lessons import Course
from evaluations.tasks.recall.corpus import default_vocabulary
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError


@pytest.fixture(scope="module")
def source() -> LikelihoodSource:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=default_vocabulary().size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return LikelihoodSource(model, None, Course(("pairs", "passkey"), (96,), (48,), 48), 2, 3)


@pytest.fixture(scope="module")
def fitness(source: LikelihoodSource) -> LikelihoodFitness:
    return LikelihoodFitness([source], NAMM(NAMMConfig(signals=("key_difference",), interval=48)), 0.5)


def test_population_and_price(fitness: LikelihoodFitness) -> None:
    torch.manual_seed(1)
    candidates = torch.randn(3, fitness.namm.scorer.params)
    candidates[0] = 0.0  # keeps everything
    report = fitness(candidates, 1, 7)
    assert float(report.candidates["likelihood_ratio"][0]) == pytest.approx(1.0, abs=1e-4)
    assert float(report.candidates["kept_fraction"][0]) == pytest.approx(1.0)
    assert float(report.fitness[0]) == pytest.approx(0.5, abs=1e-4)
    assert len(set(report.candidates["kept_fraction"].tolist())) == 3
    for row in range(3):
        alone = fitness(candidates[row : row + 1], 1, 7)
        torch.testing.assert_close(alone.fitness[0], report.fitness[row], rtol=1e-4, atol=1e-5)
    assert not torch.equal(fitness(candidates, 1, 8).fitness, report.fitness)


def test_validation_is_fixed(fitness: LikelihoodFitness) -> None:
    mean = torch.randn(fitness.namm.scorer.params, generator=torch.Generator().manual_seed(3))
    first = fitness.validate(mean, 1)
    assert first == fitness.validate(mean, 9)
    ratio, kept = first.extras["likelihood_ratio"], first.extras["kept_fraction"]
    assert 0 < ratio <= 1
    assert first.score == pytest.approx(ratio - 0.5 * kept)


def test_a_fitness_needs_a_source_and_sizes_for_all(source: LikelihoodSource) -> None:
    with pytest.raises(ConfigError, match="at least one source"):
        LikelihoodFitness([], NAMM(), 0.5)
    with pytest.raises(ConfigError, match="size for each of 1"):
        LikelihoodFitness([source], NAMM(), 0.5, sizes=[])
