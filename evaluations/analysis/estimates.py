"""Estimates with intervals: means, interquartile means, success rates and paired differences.

Every estimate is a frozen `Estimate` (value, low, high). Intervals are 95% percentile bootstraps that resample inside
strata, success rates get Wilson's interval because a bootstrap of all-successes has no width, and two policies are
compared trial by trial on the ones they share, with Holm's correction where there are several rivals.
Randomness comes from an explicit seed, so a report made twice is the same report. Several targets at once:
evaluations/analysis/aggregates.py.

Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (2021), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from namm.errors import DataError

RESAMPLES = 4_000
"""Bootstrap resamples and random sign flips; the interval's own error is then below a tenth of its width."""
SIGNIFICANCE = 0.05
"""A corrected p-value below this is called a difference."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval, in the unit of what was estimated; infinite where one score tells none."""

    value: float
    low: float
    high: float

    @property
    def is_bounded(self) -> bool:
        """False where nothing is known about how far off the value may be."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def text(self, digits: int = 1, sign: str = "") -> str:
        """ "97.8 [97.2, 98.6]"; "97.8 [–]" where there is no interval.

        Args:
            digits: After the point.
            sign: "+" shows the sign of positive numbers too.
        """
        value, low, high = (f"{number:{sign}.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]" if self.is_bounded else f"{value} [–]"

    def error(self) -> list[list[float]]:
        """Distances to the ends of the interval, as matplotlib's error bars take them; zero where there is none."""
        if not self.is_bounded:
            return [[0.0], [0.0]]
        return [[max(0.0, self.value - self.low)], [max(0.0, self.high - self.value)]]

    def overlaps(self, other: Estimate) -> bool:
        """True if the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class PairedDifference:
    """First minus second on shared trials: mean difference, its interval and a two-sided permutation p-value."""

    difference: Estimate
    p_value: float
    pairs: int
    adjusted: float | None = None
    """The p-value after Holm's correction for the comparisons made beside this one; None before it."""

    @property
    def is_clear(self) -> bool:
        """True if it may be said that the two differ: the corrected test and the interval both say so."""
        p_value = self.p_value if self.adjusted is None else self.adjusted
        return p_value < SIGNIFICANCE and not self.difference.low <= 0.0 <= self.difference.high

    @property
    def smallest_p_value(self) -> float:
        """What the test could at best have shown: all differences of one sign."""
        return max(2.0 ** (1 - self.pairs), 2.0 / (RESAMPLES + 1))


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The plain mean along an axis."""
    return np.mean(values, axis=axis)


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of what is left when the lowest and the highest quarter are cut off.

    Args:
        values: Scores, any shape.
        axis: Axis to reduce. As in scipy's `trim_mean`, the number cut at each end is rounded down.

    Returns:
        The interquartile mean, `axis` removed.
    """
    from scipy import stats  # slow to import, and processes that play need none

    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap(
    strata: Sequence[Sequence[float] | np.ndarray],
    seed: int,
    statistic: Callable[..., np.ndarray] = mean,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Estimate:
    """A statistic over pooled strata with its stratified percentile-bootstrap interval.

    Args:
        strata: One sequence of scores per stratum; every resample draws each stratum's own number from it.
        seed: Seed of the resampling.
        statistic: Reduces the last axis, such as `mean` or `interquartile_mean`.
        resamples: Number of resamples.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The statistic of the data and its interval (no width when there is one score per stratum).

    Raises:
        DataError: If there is nothing to estimate from, or a score is not finite.
    """
    groups = [finite(group) for group in strata if len(group)]
    if not groups:
        raise DataError("An estimate needs at least one score, found none; run at least one trial.")
    generator = np.random.default_rng(seed)
    drawn = [group[generator.integers(len(group), size=(resamples, len(group)))] for group in groups]
    draws = statistic(np.concatenate(drawn, axis=-1), axis=-1)
    return percentile_interval(float(statistic(np.concatenate(groups), axis=-1)), draws, confidence)


def percentile_interval(value: float, draws: np.ndarray, confidence: float = 0.95, known: bool = True) -> Estimate:
    """A value with the percentile interval of its bootstrap draws.

    Args:
        value: Of the data.
        draws: The same of every resample.
        confidence: Coverage of the interval.
        known: False where the draws cannot differ because there was one score: then there is no interval.
    """
    if not known:
        return Estimate(value, -math.inf, math.inf)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return Estimate(value, float(low), float(high))


def success_rate(successes: Sequence[bool | float] | np.ndarray, confidence: float = 0.95) -> Estimate:
    """The fraction of successful trials with Wilson's score interval.

    Args:
        successes: One truth value (or 0 / 1) a trial.
        confidence: Coverage of the interval.

    Returns:
        The rate in [0, 1]; the interval has a width even when every trial succeeds.

    Raises:
        DataError: If there are no trials or a value is neither 0 nor 1.
    """
    from scipy import stats  # slow to import, and processes that play need none

    values = finite(successes)
    if not values.size or not np.isin(values, (0.0, 1.0)).all():
        raise DataError(f"A success rate needs trials that are 0 or 1, found {values.tolist()[:8]}.")
    test = stats.binomtest(int(values.sum()), values.size)
    interval = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Estimate(float(values.mean()), float(interval.low), float(interval.high))


def sign_flip_p_value(differences: np.ndarray, seed: int, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of a paired permutation test: how often random signs give a mean as far from zero.

    Args:
        differences: First minus second, one a pair. Weighted pairs are weighted differences.
        seed: Seed of the signs.
        resamples: Sign patterns drawn; all of them where there are fewer, and the value is then exact.
    """
    from scipy import stats  # slow to import, and processes that play need none

    if len(differences) == 1 or not differences.any():
        return 1.0
    test = stats.permutation_test(
        (differences,),
        mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=500,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in the same order (Holm 1979).

    Args:
        p_values: One a comparison; the k-th smallest of m is multiplied by m - k + 1, and none falls below a smaller.
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def finite(values: Sequence[bool | float] | np.ndarray) -> np.ndarray:
    """Scores as an array of finite numbers.

    Raises:
        DataError: If one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"Scores must be finite numbers, found {array[~np.isfinite(array)][:4].tolist()}.")
    return array
