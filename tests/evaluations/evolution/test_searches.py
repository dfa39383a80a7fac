"""Every registered search keeps the contract of `namm.evolution.search`, whichever library it comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from evaluations.evolution.searches import OPTIMIZERS, make_optimizer
from evaluations.evolution.snes_search import SNESConfig
from namm.errors import CheckpointError, ConfigError, NammError, UnknownNameError
from namm.evolution.search import Search

PARAMS, POPULATION = 12, 8
ALL = pytest.mark.parametrize("name", OPTIMIZERS)


def start(name: str, seed: int = 3, sigma: float = 0.3, antithetic: bool = False) -> Search:
    return make_optimizer(name, POPULATION, sigma, antithetic).make(torch.ones(PARAMS), seed)


def sphere(candidates: torch.Tensor) -> torch.Tensor:
    return -(candidates - 0.2).square().sum(-1)


def advance(search: Search, generations: int) -> Search:
    for _ in range(generations):
        candidates = search.ask()
        search.tell(candidates, sphere(candidates))
    return search


@ALL
@pytest.mark.parametrize("antithetic", [False, True])
def test_comes_nearer_to_the_optimum(name: str, antithetic: bool) -> None:
    search = advance(start(name, antithetic=antithetic), 60)
    assert float(sphere(search.mean)) > 0.5 * float(sphere(torch.ones(PARAMS)))
    assert search.generation == 60
    report = search.report()
    assert report["axis_ratio"] >= 1
    assert report["sigma"] > 0
    assert report["mean_norm"] == pytest.approx(float(search.mean.norm()))


@ALL
def test_saved_to_files_and_continued_is_bit_identical(name: str, tmp_path: Path) -> None:
    """Also while other code draws from numpy's and torch's global generators."""
    straight = advance(start(name), 4)
    state = straight.state_dict()
    safetensors.torch.save_file(state["tensors"], tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(state["scalars"], allow_nan=False))
    advance(straight, 5)
    resumed = start(name, seed=99)
    np.random.rand(7), torch.rand(7)
    tensors = safetensors.torch.load_file(tmp_path / "state.safetensors")
    resumed.load_state_dict({"tensors": tensors, "scalars": json.loads((tmp_path / "state.json").read_text())})
    for _ in range(5):
        np.random.rand(7), torch.rand(7)
        advance(resumed, 1)
    assert torch.equal(resumed.mean, straight.mean)
    assert resumed.report() == straight.report()
    assert torch.equal(resumed.ask(), straight.ask())


@ALL
def test_failed_candidates_count_as_worst(name: str) -> None:
    """Not finite and worst of all are the same to a search that goes by rank."""
    failed, worst = start(name), start(name)
    candidates = failed.ask()
    fitness = sphere(candidates)
    lost = fitness.clone()
    lost[fitness.argmin()] = math.nan
    assert failed.tell(candidates, lost) == 1
    worst.tell(worst.ask(), fitness)
    if name not in ("snes", "openai-es"):  # there it shares the rank of the worst that did not fail
        assert torch.equal(failed.mean, worst.mean)
    before = failed.mean.clone()
    with pytest.raises(NammError, match="8 of 8 candidates failed"):
        failed.tell(failed.ask(), torch.full((POPULATION,), -math.inf))
    assert torch.equal(failed.mean, before)


@ALL
def test_state_of_another_search_is_refused(name: str) -> None:
    state = advance(start(name), 2).state_dict()
    with pytest.raises(CheckpointError, match="configuration"):
        start(name, sigma=0.4).load_state_dict(state)
    del state["tensors"]["mean"]
    with pytest.raises(CheckpointError, match="mean"):
        start(name).load_state_dict(state)


@pytest.mark.parametrize("name", ["cmaes", "cmaes-diagonal", "cmaes-isotropic", "snes", "openai-es"])
def test_antithetic_candidates_come_in_opposite_pairs(name: str) -> None:
    search = advance(start(name, antithetic=True), 2)
    steps = search.ask() - search.mean
    torch.testing.assert_close(steps[0::2], -steps[1::2])


def test_rank_shaping_ignores_how_far_apart_fitness_is_and_raw_does_not() -> None:
    means = {}
    for shaping in ("nes", "centered", "normalized"):
        for scale in (1.0, 3.0):
            search = SNESConfig(POPULATION, 0.3, shaping=shaping).make(torch.ones(PARAMS), 1)
            candidates = search.ask()
            search.tell(candidates, torch.sign(sphere(candidates)) * sphere(candidates).abs() ** scale)
            means[shaping, scale] = search.mean
    for shaping in ("nes", "centered"):
        assert torch.equal(means[shaping, 1.0], means[shaping, 3.0])
    assert not torch.equal(means["normalized", 1.0], means["normalized", 3.0])


def test_openai_es_keeps_its_deviations() -> None:
    assert advance(start("openai-es"), 5).report()["sigma"] == pytest.approx(0.3)
    assert advance(start("snes"), 5).report()["sigma"] != pytest.approx(0.3)


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'pycma'"):
        make_optimizer("pycam", 8, 0.1)
    for name in ("cmaes", "snes"):
        with pytest.raises(ConfigError, match="even number"):
            make_optimizer(name, 7, 0.1, antithetic=True)
    with pytest.raises(ConfigError, match="last ask"):
        start("pycma").tell(torch.zeros(POPULATION, PARAMS).double(), torch.zeros(POPULATION))
