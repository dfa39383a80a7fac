"""Aggregates agree with rliable's published and computed numbers, with scipy, and with slow obvious versions.

rliable_reference.json holds numbers computed once with rliable itself (versions and inputs are inside; bootstraps with
50,000 resamples), and the values that rliable's own tests publish.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluations.analysis.aggregates import (
    aggregate,
    average_profile,
    interquartile_mean_of_runs,
    mean_of_tasks,
    optimality_gap,
    paired_over_tasks,
    performance_profile,
    probability_of_improvement,
)
from evaluations.analysis.estimates import RESAMPLES
from namm.errors import DataError

REFERENCE = json.loads((Path(__file__).parent / "rliable_reference.json").read_text())
STATISTICS = {
    "mean": mean_of_tasks,
    "interquartile_mean": interquartile_mean_of_runs,
    "optimality_gap": partial(optimality_gap, target=1.0),
}


def tasks_of(matrix) -> list[np.ndarray]:
    """rliable's runs x tasks as our list of (seeds, one episode)."""
    return [np.array(column, dtype=float)[:, None] for column in zip(*matrix, strict=True)]


def made_up(seed: int, tasks: int = 3, seeds: int = 3, episodes: int = 5) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [30.0 * task + 10.0 * generator.normal(size=(seeds, episodes)) for task in range(tasks)]


@pytest.mark.parametrize("name", ["mean", "interquartile_mean"])
@pytest.mark.parametrize("matrix", ["x", "y"])
def test_numbers_that_rliable_publishes_in_its_tests(name, matrix):
    published = REFERENCE["published"]
    assert aggregate(tasks_of(published[matrix]), 0, STATISTICS[name]).value == published[name][matrix]


def test_probability_of_improvement_that_rliable_publishes():
    published = REFERENCE["published"]
    found = probability_of_improvement(tasks_of(published["x"]), tasks_of(published["y"]), 0)
    assert found.value == pytest.approx(published["probability_of_improvement"])


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("matrix", ["x", "y"])
def test_aggregates_and_their_intervals_are_rliables(name, matrix):
    value, low, high = REFERENCE["aggregates"][matrix][name]
    found = aggregate(tasks_of(REFERENCE[matrix]), 0, STATISTICS[name], resamples=20_000)
    assert found.value == pytest.approx(value, abs=1e-6)
    tolerance = 0.04 * (high - low)
    assert (found.low, found.high) == (pytest.approx(low, abs=tolerance), pytest.approx(high, abs=tolerance))


def test_probability_of_improvement_and_its_interval_are_rliables():
    value, low, high = REFERENCE["probability_of_improvement"]
    found = probability_of_improvement(tasks_of(REFERENCE["x"]), tasks_of(REFERENCE["y"]), 0, resamples=20_000)
    assert found.value == pytest.approx(value, abs=1e-6)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.011), pytest.approx(high, abs=0.011))


@pytest.mark.parametrize(
    ("name", "profile"), [("run_score_profile", performance_profile), ("average_score_profile", average_profile)]
)
def test_profiles_and_their_bands_are_rliables(name, profile):
    wanted = REFERENCE[name]
    found = profile(tasks_of(REFERENCE["x"]), np.array(REFERENCE["taus"]), 0, resamples=20_000)
    np.testing.assert_allclose(found.fraction, wanted["value"], atol=1e-6)
    step = 1.0 / 30.0  # run scores: 30 of them, so the bands are multiples of this
    np.testing.assert_allclose(found.low, wanted["low"], atol=step + 1e-6)
    np.testing.assert_allclose(found.high, wanted["high"], atol=step + 1e-6)


def test_probability_of_improvement_is_mann_whitney_with_half_of_the_ties():
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 4, size=(3, 6)).astype(float) for _ in range(2))
    u = stats.mannwhitneyu(first.ravel(), second.ravel(), method="asymptotic").statistic
    assert probability_of_improvement([first], [second], 0).value == pytest.approx(u / (18 * 18))
    assert probability_of_improvement([first], [first], 0).value == 0.5


def test_seeds_and_then_their_episodes_are_resampled():
    """Seeds that differ and episodes that do not: the spread of drawing three of three seeds, enumerated.

    Drawing episodes alone, or pooling all of them, would give another interval.
    """
    task = np.repeat([[0.0], [30.0], [90.0]], 8, axis=1)
    grid = np.array(np.meshgrid(*[[0.0, 30.0, 90.0]] * 3)).reshape(3, -1).mean(axis=0)
    found = aggregate([task], 0)
    assert (found.low, found.high) == tuple(np.percentile(grid, (2.5, 97.5), method="inverted_cdf"))
    same = aggregate([np.array([[0.0, 60.0]] * 3)], 0)
    assert same.low < 30.0 < same.high


def test_weights_and_draws_of_a_mean_have_the_same_spread():
    """The profile's route (weights of episodes) and the mean's route (drawn runs) resample the same way."""
    task = np.random.default_rng(1).normal(size=(4, 6))
    above = performance_profile([task], np.array([0.0]), 0, resamples=20_000)
    mean = aggregate([(task > 0).astype(float)], 1, resamples=20_000)
    assert above.fraction[0] == pytest.approx(mean.value)
    assert above.low[0] == pytest.approx(mean.low, abs=0.03)
    assert above.high[0] == pytest.approx(mean.high, abs=0.03)


def test_tasks_weigh_the_same_however_many_episodes_they_have():
    tasks = [np.zeros((1, 4)), np.full((1, 40), 100.0)]
    assert aggregate(tasks, 0).value == 50.0
    assert performance_profile(tasks, np.array([50.0]), 0).fraction[0] == 0.5
    assert probability_of_improvement(tasks, [np.ones((1, 2)), np.ones((1, 2))], 0).value == 0.5


def test_paired_over_tasks_flips_signs_inside_tasks():
    """Exact for few pairs: all sign patterns of both tasks, in a slow version."""
    differences = [np.array([[3.0, 1.0, -0.5]]), np.array([[2.0, 2.5]])]
    found = paired_over_tasks(differences, 0)
    observed, count = (3.5 / 3 + 4.5 / 2) / 2, 0
    for pattern in range(2**5):
        signs = np.array([1.0 if pattern >> bit & 1 else -1.0 for bit in range(5)])
        drawn = ((signs[:3] * differences[0][0]).mean() + (signs[3:] * differences[1][0]).mean()) / 2
        count += abs(drawn) >= observed - 1e-12
    assert found.difference.value == pytest.approx(observed)
    assert found.p_value == pytest.approx(count / 2**5)
    assert found.pairs == 5


def test_false_alarms_of_the_paired_test_are_as_rare_as_it_says():
    generator = np.random.default_rng(5)
    p_values = [
        paired_over_tasks([generator.normal(size=(3, 4)) for _ in range(2)], i, resamples=300).p_value
        for i in range(200)
    ]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.1


@pytest.mark.parametrize(("tasks", "seeds", "episodes"), [(1, 3, 4), (3, 3, 4), (3, 3, 32)])
def test_intervals_of_few_seeds_cover_the_truth(tasks, seeds, episodes):
    """Drawing the seeds alone covers 70 to 90% here; a seed's own effect is part of the truth to be covered."""
    generator = np.random.default_rng(7)
    covered = []
    for trial in range(250):
        own = 5.0 * generator.normal(size=(tasks, seeds, 1))
        data = own + 20.0 * generator.normal(size=(tasks, seeds, episodes))
        found = aggregate(list(data), trial, resamples=500)
        covered.append(found.low <= 0.0 <= found.high)
    assert np.mean(covered) > 0.88


def test_same_seed_same_interval():
    first, second = made_up(0), made_up(1)
    assert aggregate(first, 3) == aggregate(first, 3) != aggregate(first, 4)
    assert probability_of_improvement(first, second, 3) == probability_of_improvement(first, second, 3)


@pytest.mark.parametrize("tasks", [[], [np.zeros(3)], [np.zeros((2, 0))], [np.full((1, 2), np.nan)]])
def test_nothing_to_aggregate_is_refused(tasks):
    with pytest.raises(DataError):
        aggregate(tasks, 0)


def test_the_smallest_p_value_is_what_the_test_can_reach():
    for pairs in (3, 6, 40):
        found = paired_over_tasks([np.ones((1, pairs)) + np.arange(pairs) / 100], 0)
        assert found.p_value == pytest.approx(found.smallest_p_value)
    assert found.smallest_p_value == pytest.approx(2 / (RESAMPLES + 1))


def test_one_score_has_no_interval_and_proves_nothing():
    found = aggregate([np.array([[50.0]]), np.zeros((3, 4))], 0)
    assert found.text() == "25.0 [–]"
    assert found.overlaps(aggregate([np.full((3, 4), 1e6)], 0))
    assert not paired_over_tasks([np.array([[50.0]])], 0).is_clear
    assert not probability_of_improvement([np.array([[1.0]])], [np.zeros((2, 3))], 0).is_bounded
