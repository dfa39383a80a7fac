"""Several targets at once, with rliable's estimators: means, optimality gap, probability of improvement, profiles.

A task is an array (seeds, trials) of scores; a run is one seed, its score the mean of its trials. Every interval
is a percentile bootstrap that keeps tasks fixed (they are the strata) and, inside each, draws seeds and then trials
of each drawn seed. With one value a seed that is exactly rliable's resampling; with trials it is wider, because three
resampled seeds alone cover too little (docs/statistics.md has the simulation). Tasks weigh the same. Where several
trials are about one document, documents are drawn in place of trials (`evaluations.analysis.clusters`).

Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (2021), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluations.analysis.clusters import Clustered, Task
from evaluations.analysis.estimates import (
    RESAMPLES,
    Estimate,
    PairedDifference,
    finite,
    interquartile_mean,
    percentile_interval,
    sign_flip_p_value,
)
from namm.errors import DataError

Runs = Sequence[np.ndarray]
"""Run scores of every task: arrays (..., seeds), any number of resamples in front."""
Statistic = Callable[[Runs], np.ndarray]


@dataclass(frozen=True)
class Profile:
    """Fraction of scores above each threshold, with a pointwise 95% band."""

    thresholds: np.ndarray
    fraction: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_of_tasks(runs: Runs) -> np.ndarray:
    """Mean over tasks of the tasks' mean scores."""
    return np.mean([scores.mean(axis=-1) for scores in runs], axis=0)


def interquartile_mean_of_runs(runs: Runs) -> np.ndarray:
    """Mean of the middle half of all runs of all tasks."""
    return interquartile_mean(np.concatenate(list(runs), axis=-1), axis=-1)


def optimality_gap(runs: Runs, target: float = 100.0) -> np.ndarray:
    """By how much runs miss `target` on average, overshoot not counting; smaller is better."""
    return mean_of_tasks([target - np.minimum(scores, target) for scores in runs])


def aggregate(
    tasks: Sequence[Task], seed: int, statistic: Statistic = mean_of_tasks, resamples: int = RESAMPLES
) -> Estimate:
    """A statistic of the runs of several tasks with its stratified bootstrap interval.

    Args:
        tasks: One array (seeds, trials) a task.
        seed: Seed of the resampling.
        statistic: Reduces the run scores of all tasks to one number a resample.
        resamples: Number of resamples.

    Raises:
        DataError: If there are no tasks, an array is empty or of another rank, or a score is not finite.
    """
    checked = _checked(tasks)
    generator = np.random.default_rng(seed)
    draws = statistic([resampled_runs(task, resamples, generator) for task in checked])
    value = float(statistic([scores_of(task).mean(axis=1) for task in checked]))
    return percentile_interval(value, draws, known=_several(checked))


def interquartile_of_trials(task: Task, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """The mean of the middle half of the trials of one task, whatever their seeds.

    Args:
        task: Scores (seeds, trials).
        seed: Seed of the resampling.
        resamples: Number of resamples.
    """
    if not isinstance(task, Clustered):
        return aggregate([task.reshape(-1, 1)], seed, interquartile_mean_of_runs, resamples)
    checked = Clustered(_finite_scores([task])[0], task.documents)
    order = np.argsort(checked.scores, axis=None)
    reached = checked.counts(resamples, np.random.default_rng(seed))[:, order].cumsum(axis=1)
    size = reached[:, -1:]
    cut = np.floor(0.25 * size)
    inside = np.diff(np.clip(reached, cut, size - cut), axis=1, prepend=cut) / (size - 2.0 * cut)
    draws = inside @ checked.scores.ravel()[order]
    return percentile_interval(float(interquartile_mean(checked.scores.ravel())), draws, known=_several([checked]))


def probability_of_improvement(
    first: Sequence[Task], second: Sequence[Task], seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """Probability that a trial of `first` scores above one of `second`, mean over tasks; a tie counts half.

    On every task this is the Mann-Whitney statistic over all pairs of trials. The two are resampled independently,
    as in rliable, although they share trials: the interval is rather too wide than too narrow.

    Args:
        first: One array (seeds, trials) a task.
        second: The same tasks in the same order; numbers of seeds and trials may differ.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        DataError: If tasks are missing or a score is not finite.
    """
    ours, theirs = _checked(first), _checked(second)
    if len(ours) != len(theirs):
        raise DataError(f"Both need the same tasks, found {len(ours)} and {len(theirs)}.")
    generator = np.random.default_rng(seed)
    values, draws = [], np.zeros(resamples)
    for x, y in zip(ours, theirs, strict=True):
        weights_x, weights_y = (_weights(task, resamples, generator) for task in (x, y))
        difference = np.sign(scores_of(x).reshape(-1, 1) - scores_of(y).reshape(1, -1))
        wins = (difference + 1.0) / 2.0
        values.append(wins.mean())
        draws += np.einsum("rx,rx->r", weights_x, weights_y @ wins.T) / len(ours)
    return percentile_interval(float(np.mean(values)), draws, known=_several([*ours, *theirs]))


def performance_profile(
    tasks: Sequence[Task], thresholds: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> Profile:
    """Fraction of trials that score above each threshold, mean over tasks."""
    checked = _checked(tasks)
    generator = np.random.default_rng(seed)
    above = [(scores_of(task).reshape(-1, 1) > thresholds).astype(float) for task in checked]
    drawn = [_weights(task, resamples, generator) @ flags for task, flags in zip(checked, above, strict=True)]
    return _profile(thresholds, np.mean([flags.mean(axis=0) for flags in above], axis=0), np.mean(drawn, axis=0))


def average_profile(tasks: Sequence[Task], thresholds: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Profile:
    """Fraction of tasks whose mean score is above each threshold."""
    checked = _checked(tasks)
    generator = np.random.default_rng(seed)
    drawn = [resampled_runs(task, resamples, generator).mean(axis=1)[:, None] > thresholds for task in checked]
    fraction = np.mean([scores_of(task).mean() > thresholds for task in checked], axis=0)
    return _profile(thresholds, fraction, np.mean(drawn, axis=0))


def paired_over_tasks(differences: Sequence[Task], seed: int, resamples: int = RESAMPLES) -> PairedDifference:
    """Mean over tasks of paired differences, its interval, and a permutation test that flips signs inside tasks.

    The differences of one document flip together; a pair is then a document.

    Args:
        differences: First minus second on shared trials, one array (seeds, trials) a task.
        seed: Seed of the resampling and of the sign flips.
        resamples: Bootstrap resamples and sign flips.

    Raises:
        DataError: If there are no tasks or a difference is not finite.
    """
    checked = _checked(differences)
    estimate = aggregate(checked, seed, resamples=resamples)
    parts = [(task.sums() if isinstance(task, Clustered) else task.ravel(), scores_of(task).size) for task in checked]
    shares = np.concatenate([part / (size * len(checked)) for part, size in parts])
    return PairedDifference(estimate, sign_flip_p_value(shares, seed, resamples), shares.size)


def scores_of(task: Task) -> np.ndarray:
    """The plain scores (seeds, trials)."""
    return task.scores if isinstance(task, Clustered) else task


def resampled_runs(task: Task, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Bootstrap draws (resamples, seeds) of the run scores of one task (seeds, trials)."""
    if isinstance(task, Clustered):
        return task.runs(resamples, generator)
    return task[_indices(task.shape, resamples, generator)].mean(axis=-1)


def _checked(tasks: Sequence[Task]) -> list[Task]:
    checked = _finite_scores(tasks)
    return [
        Clustered(scores, task.documents) if isinstance(task, Clustered) else scores
        for scores, task in zip(checked, tasks, strict=True)
    ]


def _finite_scores(tasks: Sequence[Task]) -> list[np.ndarray]:
    checked = [finite(scores_of(task)) for task in tasks]
    if not checked or any(task.ndim != 2 or not task.size for task in checked):
        raise DataError(
            "Tasks must be arrays (seeds, trials) with at least one score, found shapes "
            f"{[task.shape for task in checked]}; seeds of one target need equally many trials."
        )
    return checked


def _several(tasks: Sequence[Task]) -> bool:
    """A task of one score (or document) tells nothing about its spread, and so neither does any sum it is part of."""
    return all((task.count if isinstance(task, Clustered) else task.size) > 1 for task in tasks)


def _indices(shape: tuple[int, int], resamples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Drawn seeds (resamples, seeds, 1), and the trials drawn of each (resamples, seeds, trials)."""
    seeds, trials = shape
    drawn = generator.integers(seeds, size=(resamples, seeds, 1))
    return drawn, generator.integers(trials, size=(resamples, seeds, trials))


def _weights(task: Task, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """(resamples, seeds * trials): the share of each trial in a resample; rows sum to one."""
    if isinstance(task, Clustered):
        counts = task.counts(resamples, generator)
        return counts / counts.sum(axis=1, keepdims=True)
    shape = task.shape
    seeds, trials = _indices(shape, resamples, generator)
    size = shape[0] * shape[1]
    flat = (seeds * shape[1] + trials).reshape(resamples, -1) + size * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=size * resamples).reshape(resamples, size) / size


def _profile(thresholds: np.ndarray, fraction: np.ndarray, draws: np.ndarray) -> Profile:
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return Profile(thresholds, fraction, low, high)
