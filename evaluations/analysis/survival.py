"""How long cues survive in a memory, and whether a trial succeeds without them.

Survival is the Kaplan-Meier estimate: a cue that is still held when it is needed leaves the observation there, it is
not counted as lost. Intervals are Wilson's, with the effective number of observations that Greenwood's variance implies
and never more than there are trials still watched (cues and heads of one trial are not independent), so they have a
width also where nothing, or everything, was lost.

Sources: Kaplan and Meier (1958); Rothman, J. Chronic Dis. 31 (1978) 557-560, for the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri

from evaluations.analysis.estimates import Estimate, bootstrap, success_rate
from evaluations.rows.results import Row
from evaluations.rows.trials import of, trials
from namm.errors import DataError

QUANTILE = float(ndtri(0.975))
"""Of a 95% interval."""


@dataclass(frozen=True)
class Survival:
    """A step function: from `steps[i]` on, a share `held[i]` survives; the first step is 0, with a share of 1."""

    steps: Int[np.ndarray, " times"]
    held: Float[np.ndarray, " times"]
    low: Float[np.ndarray, " times"]
    high: Float[np.ndarray, " times"]
    horizon: int
    """It says nothing beyond this step."""

    def at(self, steps: Sequence[float] | np.ndarray) -> Float[np.ndarray, " wanted"]:
        """The share that survives so many steps."""
        return self.held[np.searchsorted(self.steps, steps, side="right") - 1]


@dataclass(frozen=True)
class Association:
    """Scores (0 to 100) of the trials that held every cue when it was needed, and of the others."""

    held: Estimate | None
    lost: Estimate | None
    held_trials: int
    lost_trials: int
    rho: float | None
    """Spearman's correlation of the share of cues held with the score (phi for one cue and success), if any varies."""
    p_value: float | None
    """Fisher's exact test for successes, Spearman's otherwise; two-sided."""


def kaplan_meier(
    observed: Int[np.ndarray, " cues"],
    lost: Bool[np.ndarray, " cues"],
    trials: Int[np.ndarray, " cues"],
    longest: int = 0,
) -> Survival:
    """The share of cues that survive so many steps.

    Args:
        observed: Steps after which each cue was lost or, if it was not, ceased to be watched.
        lost: Which of them were lost.
        trials: The trial of each.
        longest: Steps that the longest cue was to be held: where all were lost earlier, zero is known to there.

    Returns:
        The estimate at 0 and at every step of a loss.

    Raises:
        DataError: There is no cue.
    """
    if not len(observed):
        raise DataError("expected at least one cue to follow, found none: nothing was shown that is asked for later")
    steps = np.unique(np.concatenate([[0], observed[lost]]))
    watched = np.array([(observed >= step).sum() for step in steps])
    losses = np.array([((observed == step) & lost).sum() for step in steps])
    independent = np.array([len(np.unique(trials[observed >= step])) for step in steps])
    held = np.cumprod(1.0 - losses / watched)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = held**2 * np.cumsum(losses / (watched * (watched - losses)))  # Greenwood
        effective = np.where((held > 0) & (held < 1), held * (1 - held) / variance, np.inf)
    low, high = _wilson(held, np.minimum(effective, independent))
    last = int(observed.max())
    return Survival(steps, held, low, high, last if held[-1] > 0 else max(last, longest))


def in_any_head(rows: Sequence[Row]) -> Survival | None:
    """Survival of the state tokens of cues in at least one (layer, head); None where no row has cues."""
    return _survival([(e, np.where(lost.min(1) < 0, -1, lost.max(1))[:, None]) for e, lost in _watched(rows)])


def over_heads(rows: Sequence[Row]) -> Survival | None:
    """Share of (cue, layer, head) that still hold the state token; None where no row has cues."""
    return _survival(list(_watched(rows)))


def by_head(rows: Sequence[Row]) -> list[Survival]:
    """The same for every (layer, head), layer by layer."""
    found = list(_watched(rows))
    heads = found[0][1].shape[1] if found else 0
    return [kept for head in range(heads) if (kept := _survival([(e, lost[:, head : head + 1]) for e, lost in found]))]


def cue_points(rows: Sequence[Row], points: int) -> list[tuple[int, float, float]]:
    """(steps since the cue, share of cues in at least one head, share of (cue, head)), evenly spread over time."""
    kept, heads = in_any_head(rows), over_heads(rows)
    if kept is None or heads is None:
        return []
    steps = np.unique(np.linspace(0, kept.horizon, points).round().astype(int))
    return [(int(s), float(a), float(h)) for s, a, h in zip(steps, kept.at(steps), heads.at(steps), strict=True)]


def associate(rows: Sequence[Row]) -> Association | None:
    """Whether the trials of some rows succeed without their cues; None where no row has cues."""
    shown = [trial for row in rows for trial in trials(row) if trial.get("cue_held") is not None]
    if not shown:
        return None
    share = np.array([trial["cue_held"] for trial in shown])
    score = np.array([trial["score"] for trial in shown])
    binary = all(trial["success"] is not None for trial in shown)
    kept = share == 1.0
    from scipy import stats  # slow to import, and processes that play need none

    rho = p_value = None
    if np.ptp(share) > 0 and np.ptp(score) > 0:
        rho, p_value = _tested(stats.spearmanr(share, score))
        if binary and kept.any() and not kept.all():
            won = score > 0
            counts = [[(kept & won).sum(), (kept & ~won).sum()], [(~kept & won).sum(), (~kept & ~won).sum()]]
            _, p_value = _tested(stats.fisher_exact(counts))
    return Association(
        _estimate(score[kept], binary),
        _estimate(score[~kept], binary),
        int(kept.sum()),
        int((~kept).sum()),
        rho,
        p_value,
    )


def held_at_need(rows: Sequence[Row]) -> Estimate | None:
    """Share of the cues that at least one (layer, head) held when they were needed; None where no row has cues."""
    shares = [
        held_when_asked(trial).any(axis=1).mean()
        for row in rows
        for trial in (row.get("cue") or {}).get(of(row).key, ())
        if trial
    ]
    if not shares:
        return None
    mean, several = np.array([np.mean(shares)]), np.array([len(shares)])
    low, high = _wilson(mean, several)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]))


def held_when_asked(trial: Mapping[str, Any]) -> Bool[np.ndarray, "cues heads"]:
    """Whether each (layer, head) still held the state token of each cue as the action that needs it was chosen.

    Args:
        trial: One entry of a row's `cue`: for each cue when it was shown, asked for, and lost by each head.
    """
    lost = np.array([[np.inf if value is None else value for value in cue] for cue in trial["lost"]])
    return lost > (np.array(trial["asked"]) - np.array(trial["shown"]))[:, None]


def _watched(rows: Sequence[Row]) -> list[tuple[Mapping[str, Any], Int[np.ndarray, "cues heads"]]]:
    """Every trial that saw cues, with the steps after which each head lost each of them (-1: never)."""
    told = [trial for row in rows for trial in (row.get("cue") or {}).get(of(row).key, ()) if trial]
    return [(e, np.array([[-1 if v is None else v for v in cue] for cue in e["lost"]], dtype=int)) for e in told]


def _survival(found: Sequence[tuple[Mapping[str, Any], Int[np.ndarray, "cues heads"]]]) -> Survival | None:
    if not found:
        return None
    observed, lost, numbers, longest = [], [], [], 0
    for number, (trial, after) in enumerate(found):
        watched = np.maximum(np.array(trial["asked"]) - np.array(trial["shown"]), 0)
        longest = max(longest, int(watched.max()))
        watched = np.broadcast_to(watched[:, None], after.shape)
        gone = (after >= 0) & (after <= watched)
        observed.append(np.where(gone, after, watched).ravel())
        lost.append(gone.ravel())
        numbers.append(np.full(after.size, number))
    return kaplan_meier(np.concatenate(observed), np.concatenate(lost), np.concatenate(numbers), longest)


def _wilson(
    share: Float[np.ndarray, " times"], observations: Float[np.ndarray, " times"] | Int[np.ndarray, " times"]
) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, " times"]]:
    """Wilson's score interval of a share among so many observations, which need not be whole."""
    squared = QUANTILE**2 / observations
    centre = (share + squared / 2) / (1 + squared)
    half = QUANTILE / (1 + squared) * np.sqrt(share * (1 - share) / observations + squared / (4 * observations))
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)  # rounding aside, the share is inside


def _tested(result: Any) -> tuple[float, float]:
    """Statistic and p-value of a test of scipy, which types none of its results."""
    return float(result.statistic), float(result.pvalue)


def _estimate(scores: np.ndarray, binary: bool) -> Estimate | None:
    if not len(scores):
        return None
    if not binary:
        return bootstrap([scores], seed=0)
    rate = success_rate(scores > 0)
    return Estimate(100 * rate.value, 100 * rate.low, 100 * rate.high)
