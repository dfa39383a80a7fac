"""Estimates agree with scipy and with slow obvious versions; intervals are reproducible and cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluations.analysis.estimates import (
    Estimate,
    PairedDifference,
    bootstrap,
    holm,
    interquartile_mean,
    mean,
    sign_flip_p_value,
    success_rate,
)
from namm.errors import DataError


def test_interquartile_mean_is_the_mean_of_the_middle_half():
    values = np.arange(16.0) ** 2
    middle = np.sort(values)[4:12]
    assert interquartile_mean(values) == pytest.approx(middle.mean())


def test_interquartile_mean_ignores_one_collapsed_episode():
    values = np.array([99.0, 100.0, 101.0, 100.0, -5000.0])
    assert interquartile_mean(values) == pytest.approx(99.0 + 2.0 / 3.0)


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_bootstrap_of_one_stratum_agrees_with_scipy(statistic):
    values = np.random.default_rng(0).normal(3.0, 2.0, size=40)
    ours = bootstrap([values], seed=1, statistic=statistic, resamples=20_000)
    reference = stats.bootstrap(
        (values,), statistic, method="percentile", n_resamples=20_000, vectorized=True, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(float(statistic(values)))
    assert ours.low == pytest.approx(reference.low, abs=0.05)
    assert ours.high == pytest.approx(reference.high, abs=0.05)


def test_stratified_bootstrap_never_mixes_strata():
    """Two constant strata far apart: resampling inside strata has no spread, pooling would have a lot."""
    assert bootstrap([[0.0] * 8, [100.0] * 8], seed=0) == Estimate(50.0, 50.0, 50.0)
    pooled = bootstrap([[0.0] * 8 + [100.0] * 8], seed=0)
    assert pooled.high - pooled.low > 20.0


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    intervals = [bootstrap([generator.normal(size=30)], seed=i, resamples=400) for i in range(300)]
    assert 0.88 < np.mean([e.low <= 0.0 <= e.high for e in intervals]) < 0.99


def test_same_seed_same_interval_other_seed_other_interval():
    values = [np.random.default_rng(0).normal(size=20)]
    assert bootstrap(values, seed=5) == bootstrap(values, seed=5)
    assert bootstrap(values, seed=5) != bootstrap(values, seed=6)


def test_success_rate_has_a_width_when_everything_succeeds():
    estimate = success_rate([True] * 32)
    reference = stats.binomtest(32, 32).proportion_ci(method="wilson")
    assert estimate == Estimate(1.0, reference.low, reference.high)
    assert estimate.low < 0.95


def test_sign_flips_see_what_unpaired_intervals_hide():
    """Episodes differ by 1000s, the policies by 10 on every one of them."""
    base = np.random.default_rng(0).normal(0, 1000, size=24)
    better = base + 10.0 + np.arange(24) % 3
    assert bootstrap([better], 0).overlaps(bootstrap([base], 0))
    assert sign_flip_p_value(better - base, seed=0) < 0.001


def test_permutation_p_value_of_few_pairs_is_exact():
    assert sign_flip_p_value(np.arange(1.0, 6.0), seed=0) == pytest.approx(2 / 2**5)


def test_no_difference_and_a_single_pair_are_no_evidence():
    assert sign_flip_p_value(np.zeros(9), seed=0) == 1.0
    assert sign_flip_p_value(np.array([5.0]), seed=0) == 1.0


@pytest.mark.parametrize("strata", [[], [[]], [[1.0, float("nan")]]])
def test_bootstrap_refuses_nothing_and_nan(strata):
    with pytest.raises(DataError):
        bootstrap(strata, seed=0)


def test_overlap_of_intervals():
    assert Estimate(1, 0, 2).overlaps(Estimate(3, 2, 4))
    assert not Estimate(1, 0, 2).overlaps(Estimate(3, 2.1, 4))


def test_holm_agrees_with_statsmodels():
    """Numbers of statsmodels 0.15.0, `multipletests(p, method="holm")`."""
    p_values = [0.0005, 0.2, 0.04, 0.011, 0.9, 0.011, 0.013]
    assert holm(p_values) == pytest.approx([0.0035, 0.4, 0.12, 0.066, 0.9, 0.066, 0.066])
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([]) == []


def test_paired_test_of_successes_is_mcnemars_exact_test():
    """Only episodes that one policy alone solves count, and their split is binomial."""
    differences = np.array([1.0] * 7 + [-1.0] + [0.0] * 12)
    exact = stats.binomtest(7, 8).pvalue
    assert sign_flip_p_value(differences, seed=0, resamples=60_000) == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize(
    ("low", "p_value", "adjusted", "clear"),
    [(0.1, 0.001, 0.008, True), (0.1, 0.01, 0.08, False), (-0.1, 0.001, 0.008, False), (0.1, 0.01, None, True)],
)
def test_a_difference_is_clear_when_interval_and_corrected_test_agree(low, p_value, adjusted, clear):
    assert PairedDifference(Estimate(1.0, low, 2.0), p_value, 9, adjusted).is_clear is clear
