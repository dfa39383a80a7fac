"""Score against cache size: the points of every policy on a target, and two numbers that sum a curve up.

A point is one budget: x is the mean number of slots really held (never the budget), y the score. Budgets of one
policy share their trials, so a bootstrap draws the same trials at every point. Between points a curve is a
straight line over the logarithm of the size. The area is the mean height over the sizes that all policies of the
target cover; the size needed is where a curve first reaches a share of the reference's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluations.analysis.aggregates import resampled_runs
from evaluations.analysis.estimates import RESAMPLES, Estimate, percentile_interval
from evaluations.analysis.summary import BOOTSTRAP_SEED, PolicySummary, TargetSummary, policy_summary, role
from evaluations.rows.results import Row

AREA_POINTS = 129
"""Sizes, evenly spread over their logarithm, at which the area under a curve is taken."""
SHARE = 0.95
"""Share of the reference's score that counts as reaching it."""


@dataclass(frozen=True)
class Curve:
    """One policy on one target at several budgets, from the smallest mean size to the largest."""

    policy: str
    points: tuple[PolicySummary, ...]

    @property
    def slots(self) -> np.ndarray:
        """Mean slots per KV head that each point really held."""
        return np.array([point.metric("slots_mean") for point in self.points])

    @property
    def is_namm(self) -> bool:
        """True for a NAMM that was given budgets."""
        return self.points[0].is_namm

    def scores(self) -> np.ndarray:
        """Mean score of each point."""
        return np.array([point.score.value for point in self.points])

    def draws(self, resamples: int = RESAMPLES) -> np.ndarray:
        """Bootstrap draws of the mean scores (resamples, points), the same trials at every point."""
        return np.stack([mean_draws(point, resamples) for point in self.points], axis=-1)


@dataclass(frozen=True)
class TargetCurves:
    """All curves of one target."""

    summary: TargetSummary
    curves: tuple[Curve, ...]
    seeds: frozenset[int]
    """Seeds that the points were played with; there may be fewer than in the tables."""

    @property
    def free(self) -> list[PolicySummary]:
        """NAMMs that decided their size themselves."""
        return [p for p in self.summary.policies if p.is_namm and role(p.rows[0]) == "free"]

    @property
    def reference(self) -> PolicySummary | None:
        """The target's reference, on the seeds of the points."""
        whole = self.summary.reference
        rows = [row for row in whole.rows if row["seed"] in self.seeds] if whole else []
        return policy_summary(whole.target, whole.policy, rows) if whole and rows else None

    @property
    def common(self) -> tuple[float, float] | None:
        """The sizes that every curve covers, None where there are none."""
        low = max(curve.slots[0] for curve in self.curves)
        high = min(curve.slots[-1] for curve in self.curves)
        return (low, high) if low < high else None


def target_curves(rows: Sequence[Row], targets: Sequence[TargetSummary]) -> list[TargetCurves]:
    """The curves of every target that has any: its rows of role "curve", and rivals' other budgets on those seeds.

    A NAMM's own rows are no points of its curve: there they pass its threshold too, here the budget alone decides.

    Args:
        rows: All rows of an experiment.
        targets: Their summaries.
    """
    found = []
    for target in targets:
        ours = [row for row in rows if row["target"] == target.target]
        seeds = {row["seed"] for row in ours if role(row) == "curve"}
        points: dict[str, dict[int, list[Row]]] = {}
        for row in ours:
            is_namm = row["policy"].startswith("namm")
            if row["seed"] in seeds and (role(row) == "curve" or (role(row) in ("matched", "given") and not is_namm)):
                points.setdefault(row["policy"], {}).setdefault(row["identity"]["budget"], []).append(row)
        curves = [_curve(target.target, policy, budgets) for policy, budgets in points.items() if len(budgets) > 1]
        if curves:
            curves.sort(key=lambda curve: (not curve.is_namm, curve.policy))
            found.append(TargetCurves(target, tuple(curves), frozenset(seeds)))
    return found


def area(curve: Curve, common: tuple[float, float]) -> Estimate:
    """Mean score over the logarithm of the size between two sizes that the curve covers."""
    grid = np.linspace(np.log(common[0]), np.log(common[1]), AREA_POINTS)
    weights = np.mean(interpolation(curve.slots, np.exp(grid)), axis=0)
    known = all(point.trials > 1 for point in curve.points)
    return percentile_interval(float(curve.scores() @ weights), curve.draws() @ weights, known=known)


def size_needed(curve: Curve, reference: PolicySummary, share: float = SHARE) -> Estimate | None:
    """Slots at which the curve first reaches a share of the reference's score; infinite where it never does.

    Args:
        curve: Scores at several sizes.
        reference: Whose mean score is to be reached; resampled too.
        share: Of that score, in (0, 1].

    Returns:
        The size, or None where the reference's score is not positive and a share of it means nothing. A curve that
        starts above it needs at most its smallest size.
    """
    if reference.score.value <= 0:
        return None
    draws = first_crossing(curve.slots, curve.draws(), share * mean_draws(reference))
    value = first_crossing(curve.slots, curve.scores()[None], np.array([share * reference.score.value]))
    low, high = np.percentile(draws, (2.5, 97.5), method="inverted_cdf")
    return Estimate(float(value[0]), float(low), float(high))


def first_crossing(slots: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each row of scores (rows, points) the size at which it first reaches what is wanted, else infinity."""
    reached = scores >= wanted[:, None]
    index = reached.argmax(axis=1)
    row = np.arange(len(scores))
    before = np.maximum(index - 1, 0)
    rise = scores[row, index] - scores[row, before]
    part = np.where(rise > 0, (wanted - scores[row, before]) / np.where(rise > 0, rise, 1.0), 0.0)
    size = np.exp((1 - part) * np.log(slots[before]) + part * np.log(slots[index]))
    return np.where(reached.any(axis=1), np.where(index == 0, slots[0], size), np.inf)


def interpolation(slots: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Weights (wanted, points) of a curve's points at other sizes: linear in the logarithm, flat beyond the ends."""
    unit = np.eye(len(slots))
    return np.stack([np.interp(np.log(wanted), np.log(slots), column) for column in unit], axis=-1)


def mean_draws(policy: PolicySummary, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap draws of a mean score; equal shapes draw equal trials."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    return resampled_runs(policy.scores(), resamples, generator).mean(axis=-1)


def _curve(target: str, policy: str, by_budget: dict[int, list[Row]]) -> Curve:
    """One point a budget; where a budget was both matched and on the curve, its rows are the same cells."""
    points = []
    for group in by_budget.values():
        unique = {row["seed"]: row for row in group}
        points.append(policy_summary(target, policy, list(unique.values())))
    return Curve(policy, tuple(sorted(points, key=lambda point: point.metric("slots_mean") or 0.0)))
