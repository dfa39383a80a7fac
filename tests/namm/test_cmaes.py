"""CMA-ES against the released code's numbers, against the `cmaes` package, and by its invariances."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import cmaes
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from namm.errors import CheckpointError, ConfigError, NammError, UnknownNameError
from namm.evolution.cmaes import CMAES, PRESETS, CMAESConfig

# Output of the released code: 12 parameters, population 8, sigma 0.3, steps given by RandomState(1234), 30 generations
# on -sum(((x - target) * scale)^2).
GOLDEN = Path(__file__).parents[1] / "golden" / "cmaes.npz"
NAMM_PARAMS = 4172
CONFIGS = {
    **PRESETS,
    "full, old axes": CMAESConfig(decompose_every=3),
    "diagonal, negative weights": CMAESConfig(covariance="diagonal", rates="tutorial"),
}


def ellipsoid(x: torch.Tensor, condition: float = 1e3) -> torch.Tensor:
    scales = condition ** torch.linspace(0, 1, x.shape[-1], dtype=torch.float64)
    return -(scales * x.square()).sum(-1)


def sphere(x: torch.Tensor) -> torch.Tensor:
    return ellipsoid(x, condition=1.0)


def advance(search: CMAES, generations: int, function=ellipsoid) -> CMAES:
    for _ in range(generations):
        candidates = search.ask()
        search.tell(candidates, function(candidates))
    return search


def snapshot(search: CMAES) -> dict[str, torch.Tensor | float]:
    state = search.state_dict()
    return {**state["tensors"], **state["scalars"]}


def assert_identical(left: CMAES, right: CMAES) -> None:
    left_state, right_state = snapshot(left), snapshot(right)
    assert left_state.keys() == right_state.keys()
    for name, value in left_state.items():
        same = torch.equal(value, right_state[name]) if isinstance(value, torch.Tensor) else value == right_state[name]
        assert same, name


def test_golden_thirty_generations():
    """Any wrong sign, order or constant in the update shows within a few of the released code's generations."""
    golden = np.load(GOLDEN)
    search = CMAES(torch.zeros(12), CMAESConfig.preset("paper", population=8, sigma=0.3), seed=0)
    for name in ("mu_eff", "c_1", "c_mu", "c_sigma", "d_sigma", "c_c"):
        assert getattr(search.rates, name) == pytest.approx(float(golden[name]), rel=1e-6, abs=0)
    np.testing.assert_allclose(search.rates.weights, golden["weights"], atol=1e-7)

    steps = torch.from_numpy(np.random.RandomState(1234).randn(30, 8, 12).astype(np.float32)).double()
    target, scale = torch.from_numpy(golden["target"]).double(), torch.from_numpy(golden["scale"]).double()
    for generation in range(30):
        candidates = search.mean + search.sigma * steps[generation]
        fitness = -((candidates - target) * scale).square().sum(1)
        search.tell(candidates, fitness)
        for name, found in {
            "mean": search.mean,
            "sigma": torch.tensor(search.sigma),
            "ps": search.path_sigma,
            "pc": search.path_c,
            "C": search.covariance.matrix,
            "fit": fitness,
        }.items():
            message = f"{name} after generation {generation + 1}"
            np.testing.assert_allclose(found.numpy(), golden[name][generation], atol=1e-5, rtol=0, err_msg=message)
    assert search.best_fitness == pytest.approx(float(golden["best_fitness"]), abs=1e-5)
    np.testing.assert_allclose(search.best_candidate.numpy(), golden["best_member"], atol=1e-5)


def test_released_constants_at_namm_size():
    """The preset `paper` is what evolved the published NAMMs."""
    rates = CMAESConfig.preset("paper").constants(NAMM_PARAMS)
    expected = [9.17883, 1.14834e-7, 8.36604e-7, 0.00267041, 1.00267041, 9.58380e-4]
    found = [rates.mu_eff, rates.c_1, rates.c_mu, rates.c_sigma, rates.d_sigma, rates.c_c]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(rates.weights[:4], [0.19767, 0.14880, 0.12021, 0.09992], atol=1e-5)
    assert sum(rates.weights) == pytest.approx(-0.13726, abs=1e-5)
    assert sum(rates.weights[:16]) == pytest.approx(1)


def test_tutorial_differs_by_a_quarter_in_c_mu_alone():
    released, tutorial = (CMAESConfig(rates=family).constants(20) for family in ("released", "tutorial"))
    assert tutorial.c_mu - released.c_mu == pytest.approx(2 * 0.25 / (22**2 + released.mu_eff))
    assert (tutorial.c_1, tutorial.c_sigma, tutorial.c_c) == (released.c_1, released.c_sigma, released.c_c)


@pytest.mark.parametrize("params", [2, 5, 20, 60])
@pytest.mark.parametrize("population", [6, 9, 32])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_equals_the_cmaes_package_on_equal_samples(params: int, population: int, covariance: str):
    """The package draws, both learn: mean, step size, both paths and the covariance stay together."""
    oracle_class = cmaes.CMA if covariance == "full" else cmaes.SepCMA
    oracle = oracle_class(mean=np.full(params, 0.5), sigma=0.4, seed=3, population_size=population)
    oracle._g = -1  # it corrects h_sigma for one generation more than were done (tutorial, below eq. 45)
    config = CMAESConfig(population=population, sigma=0.4, covariance=covariance, initial_shift=0.0, decompose_every=1)
    search = CMAES(torch.full((params,), 0.5), config, seed=0)
    for _ in range(40):
        candidates = torch.from_numpy(np.stack([oracle.ask() for _ in range(population)]))
        fitness = ellipsoid(candidates, condition=10.0) + 0.5 * torch.sin(7 * candidates).sum(1)
        oracle.tell([(x.numpy(), -float(f)) for x, f in zip(candidates, fitness, strict=True)])
        search.tell(candidates, fitness)
        learned = search.covariance.matrix if covariance == "full" else search.covariance.tensors()["variances"]
        for found, expected in (
            (search.mean, oracle._mean),
            (search.path_sigma, oracle._p_sigma),
            (search.path_c, oracle._pc),
            (learned, oracle._C),
        ):
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)
        assert search.sigma == pytest.approx(oracle._sigma, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e-2])
@pytest.mark.parametrize("params", [1, 2, 7])
def test_full_covariance_draws_and_whitens_with_its_matrix(params: int, shift: float):
    """Covers the closed form of the first decomposition and the eigensolver of the later ones."""
    search = CMAES(torch.ones(params), CMAESConfig(initial_shift=shift, decompose_every=1), seed=1)
    for generation in range(4):
        search.ask()
        matrix = search.covariance.matrix + (shift if generation == 0 else 0.0)
        eye = torch.eye(params, dtype=torch.float64)
        root, inverse_root = search.covariance.colour(eye), search.covariance.whiten(eye)
        torch.testing.assert_close(root.T @ root, matrix)
        torch.testing.assert_close(inverse_root @ matrix @ inverse_root, eye)
        torch.testing.assert_close(inverse_root, inverse_root.T)
        ratio = torch.linalg.eigvalsh(matrix)
        assert search.axis_ratio == pytest.approx(float((ratio[-1] / ratio[0]).sqrt()))
        advance(search, 1)


def test_diagonal_shift_is_for_the_first_generation_only():
    search = CMAES(torch.ones(4), CMAESConfig(covariance="diagonal", initial_shift=3.0), seed=1)
    ones = torch.ones(1, 4, dtype=torch.float64)
    torch.testing.assert_close(search.covariance.colour(ones), 2 * ones)
    advance(search, 1).ask()
    torch.testing.assert_close(search.covariance.colour(ones)[0].square(), search.covariance.tensors()["variances"])


def test_lazy_schedule_decomposes_every_25_generations_at_namm_size():
    lazy = CMAES(torch.zeros(500), CMAESConfig(), seed=0)
    gap = 1 / (10 * 500 * (lazy.rates.c_1 + lazy.rates.c_mu))
    decomposed = [advance(lazy, 1).covariance.refreshed_at for _ in range(5)]
    assert int(gap) == 3
    assert decomposed == [generation - generation % int(gap) for generation in range(5)]
    rates = CMAESConfig().constants(NAMM_PARAMS)
    assert int(1 / (10 * NAMM_PARAMS * (rates.c_1 + rates.c_mu))) == 25


@pytest.mark.parametrize(
    ("name", "function", "generations"),
    [
        ("paper", ellipsoid, 200),
        ("tutorial", ellipsoid, 200),
        ("separable", ellipsoid, 200),
        ("diagonal, negative weights", sphere, 200),
        ("isotropic", sphere, 200),
    ],
)
def test_optimises(name: str, function, generations: int):
    search = advance(CMAES(torch.ones(20), CONFIGS[name], seed=2), generations, function)
    assert float(function(search.mean)) > 1e-6 * float(function(torch.ones(20, dtype=torch.float64)))
    if function is ellipsoid:
        assert 10 < search.axis_ratio < 100, "the axes of the ellipsoid are 1 : sqrt(1000)"


@pytest.mark.parametrize("name", ["isotropic", "separable"])
def test_four_thousand_parameters_in_milliseconds(name: str):
    """Guards against an n x n matrix hidden in the cheap variants."""
    search = CMAES(torch.ones(NAMM_PARAMS), CONFIGS[name], seed=0)
    seconds = []
    for _ in range(40):
        began = time.perf_counter()
        advance(search, 1, sphere)
        seconds.append(time.perf_counter() - began)
    assert float(search.mean.square().mean()) < 0.93
    assert sorted(seconds)[20] < 0.1
    assert sum(tensor.nbytes for tensor in search.state_dict()["tensors"].values()) < 40 * NAMM_PARAMS + 10_000


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("saved_after", [0, 1, 4])
def test_saved_to_files_and_continued_is_bit_identical(name: str, saved_after: int, tmp_path: Path):
    straight = advance(CMAES(torch.ones(17), CONFIGS[name], seed=5), saved_after)
    state = straight.state_dict()
    safetensors.torch.save_file(state["tensors"], tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(state["scalars"], allow_nan=False))
    advance(straight, 5)

    resumed = CMAES(torch.zeros(17), CONFIGS[name], seed=99)
    tensors = safetensors.torch.load_file(tmp_path / "state.safetensors")
    resumed.load_state_dict({"tensors": tensors, "scalars": json.loads((tmp_path / "state.json").read_text())})
    assert_identical(advance(resumed, 5), straight)


def test_state_is_not_changed_by_later_generations():
    search = advance(CMAES(torch.ones(6), CMAESConfig(), seed=5), 2)
    before = search.state_dict()
    copy = {name: tensor.clone() for name, tensor in before["tensors"].items()}
    advance(search, 2)
    resumed = CMAES(torch.ones(6), CMAESConfig(), seed=5)
    resumed.load_state_dict(before)
    advance(resumed, 2)
    assert all(torch.equal(before["tensors"][name], tensor) for name, tensor in copy.items())


def test_state_of_another_search_is_refused():
    state = advance(CMAES(torch.ones(6), CMAESConfig(), seed=0), 2).state_dict()
    with pytest.raises(CheckpointError, match="sigma"):
        CMAES(torch.ones(6), CMAESConfig(sigma=0.5), seed=0).load_state_dict(state)
    with pytest.raises(CheckpointError, match="mean"):
        CMAES(torch.ones(7), CMAESConfig(), seed=0).load_state_dict(state)
    del state["tensors"]["covariance.vectors"]
    with pytest.raises(CheckpointError, match="vectors"):
        CMAES(torch.ones(6), CMAESConfig(), seed=0).load_state_dict(state)


def test_randomness_is_owned_by_the_object():
    """Neither the global generator nor another search changes what is drawn."""
    torch.manual_seed(0)
    first, second = (CMAES(torch.ones(5), seed=7) for _ in range(2))
    one = first.ask()
    torch.manual_seed(1)
    assert torch.equal(one, second.ask())
    assert not torch.equal(one, CMAES(torch.ones(5), seed=8).ask())
    assert torch.initial_seed() == 1


def test_failed_candidates_are_ranked_last_and_counted():
    search, twin = (CMAES(torch.ones(6), CMAESConfig(population=8), seed=0) for _ in range(2))
    candidates = search.ask()
    twin.ask()
    fitness = sphere(candidates)
    fitness[[1, 5]] = torch.tensor([math.nan, -math.inf], dtype=torch.float64)
    assert search.tell(candidates, fitness) == 2
    assert twin.tell(candidates, fitness.nan_to_num(nan=-1e9, neginf=-1e9)) == 0
    assert_identical(search, twin)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_mostly_failed_generation_moves_towards_survivors_only(bad: float):
    search = CMAES(torch.zeros(6), CMAESConfig(population=8), seed=0)
    candidates = search.ask()
    fitness = torch.full((8,), bad, dtype=torch.float64)
    fitness[3] = 1.0
    assert search.tell(candidates, fitness) == 7
    torch.testing.assert_close(search.mean, search.rates.weights[0] * candidates[3])
    assert search.best_fitness == 1.0
    assert torch.equal(search.best_candidate, candidates[3])


def test_all_failed_is_an_error_and_changes_nothing():
    search = advance(CMAES(torch.ones(6), seed=0), 2)
    candidates, before = search.ask(), snapshot(search)
    with pytest.raises(NammError, match="32 of 32 candidates failed at generation 3"):
        search.tell(candidates, torch.full((32,), math.nan))
    after = snapshot(search)
    assert after["generation"] == before["generation"]
    assert torch.equal(after["mean"], before["mean"])


def test_runaway_step_size_is_an_error():
    search = CMAES(torch.zeros(2), CMAESConfig(population=8), seed=0)
    with pytest.raises(NammError, match="step size"):
        advance(search, 5000, lambda candidates: candidates[:, 0])


def test_sigma_exponent_cap():
    steps = torch.linspace(1, 2, 8, dtype=torch.float64)[:, None].expand(8, 3) * 50
    for cap in (None, 1.0):
        search = CMAES(torch.zeros(3), CMAESConfig(population=8, sigma=0.1, sigma_exponent_cap=cap), seed=0)
        search.tell(0.1 * steps, torch.arange(8.0))
        assert (search.sigma == pytest.approx(0.1 * math.e)) is (cap == 1.0)
        assert search.sigma >= 0.1 * math.e


def test_elite_ratio_keeps_the_mean_inside_the_population():
    rates = CMAESConfig(population=20, elite_ratio=0.25).constants(10)
    assert sum(w > 0 for w in rates.weights) == 5
    assert sum(w for w in rates.weights if w > 0) == pytest.approx(1)
    single = advance(CMAES(torch.ones(4), CMAESConfig(population=4, elite_ratio=0.25), seed=0), 200, sphere)
    assert float(sphere(single.mean)) > -1e-3


@settings(deadline=None, max_examples=40)
@given(
    order=st.permutations(range(8)),
    ranks=st.permutations(range(-4, 4)),
    constant=st.integers(-1000, 1000),
    name=st.sampled_from(sorted(CONFIGS)),
)
def test_only_the_order_of_the_fitness_matters(order: list[int], ranks: list[int], constant: int, name: str):
    """Permuting candidates with their fitness, adding a constant and a monotone transform change no bit."""
    searches = [
        advance(CMAES(torch.ones(5), CMAESConfig.preset("paper", population=8), seed=1), 1)
        if name == "paper"
        else advance(CMAES(torch.ones(5), _with_population(CONFIGS[name], 8), seed=1), 1)
        for _ in range(4)
    ]
    candidates = searches[0].ask()
    fitness = torch.tensor(ranks, dtype=torch.float64)
    variants = [
        (candidates, fitness),
        (candidates[order], fitness[order]),
        (candidates, fitness + constant),
        (candidates, torch.exp(fitness) + fitness**3),
    ]
    for search, (told, values) in zip(searches, variants, strict=True):
        search.covariance.refresh(search.generation)
        search.tell(told, values)
        for left, right in ((search.mean, searches[0].mean), (search.path_c, searches[0].path_c)):
            assert torch.equal(left, right)
        assert search.sigma == searches[0].sigma
        mine, first = search.covariance.tensors(), searches[0].covariance.tensors()
        assert all(torch.equal(mine[part], first[part]) for part in first)


def _with_population(config: CMAESConfig, population: int) -> CMAESConfig:
    return CMAESConfig(**{**config.__dict__, "population": population})


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"population": 3}, ConfigError, "population"),
        ({"sigma": 0.0}, ConfigError, "sigma"),
        ({"sigma": math.nan}, ConfigError, "sigma"),
        ({"elite_ratio": 0.7}, ConfigError, "elite_ratio"),
        ({"elite_ratio": 0.01}, ConfigError, "elite_ratio"),
        ({"c_m": 0.0}, ConfigError, "c_m"),
        ({"decompose_every": 0}, ConfigError, "decompose_every"),
        ({"rates": "separable"}, ConfigError, "diagonal"),
    ],
)
def test_impossible_configurations_are_named(changes: dict, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        CMAESConfig(**changes)


@pytest.mark.parametrize(
    ("field", "name", "meant"), [("covariance", "diagnoal", "diagonal"), ("rates", "tutoral", "tutorial")]
)
def test_unknown_names_get_a_suggestion(field: str, name: str, meant: str):
    config = CMAESConfig()
    object.__setattr__(config, field, name)  # the run-time type check of the tests refuses it before the class can
    with pytest.raises(UnknownNameError, match=meant):
        config.__post_init__()


def test_impossible_calls_are_named():
    with pytest.raises(UnknownNameError, match="paper"):
        CMAESConfig.preset("papper")
    with pytest.raises(ConfigError, match="1 values that are not finite"):
        CMAES(torch.tensor([0.0, math.nan]), seed=0)
    with pytest.raises(ConfigError, match="weights"):
        CMAES(torch.zeros(3), seed=0, rates=CMAESConfig(population=8).constants(3))
    search = CMAES(torch.zeros(3), seed=0)
    with pytest.raises(ConfigError, match=r"\[32, 3\]"):
        search.tell(torch.zeros(31, 3), torch.zeros(31))
    with pytest.raises(ConfigError, match="finite candidates"):
        search.tell(torch.full((32, 3), math.nan), torch.zeros(32))
