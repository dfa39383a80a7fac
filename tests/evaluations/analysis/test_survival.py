"""Survival of cues: against scipy's estimate, at its edges, and what the report makes of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluations.analysis.summary import summarise
from evaluations.analysis.survival import (
    QUANTILE,
    associate,
    by_head,
    cue_points,
    held_at_need,
    in_any_head,
    kaplan_meier,
    over_heads,
)
from evaluations.control.memory_section import cues
from namm.errors import DataError
from tests.evaluations.rows.made_up_rows import made_up_rows

observations = st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=2, max_size=40)


@given(observations)
def test_the_estimate_and_its_variance_are_those_of_scipy(found):
    observed, lost = np.array([o for o, _ in found]), np.array([gone for _, gone in found])
    survival = kaplan_meier(observed, lost, np.arange(len(found)))
    theirs = stats.ecdf(stats.CensoredData(uncensored=observed[lost], right=observed[~lost])).sf
    grid = np.arange(observed.max() + 1)
    assert survival.at(grid) == pytest.approx(theirs.evaluate(grid))
    assert survival.steps[0] == 0
    assert survival.held[0] == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy: undefined where the share is 0 or 1
        plain = theirs.confidence_interval(method="linear")
    for step, share, low, high in zip(survival.steps, survival.held, survival.low, survival.high, strict=True):
        deviation = (plain.high.evaluate(step) - share) / QUANTILE  # Greenwood's, where it is not cut off at 1
        if 0 < share < 1 and plain.high.evaluate(step) < 1:
            effective = min(share * (1 - share) / deviation**2, (observed >= step).sum())
            for bound in (low, high):  # Wilson's interval ends where the share is just 1.96 deviations away
                assert (share - bound) ** 2 == pytest.approx(QUANTILE**2 * bound * (1 - bound) / effective)
    assert ((survival.low <= survival.held) & (survival.held <= survival.high)).all()


def test_without_censoring_the_interval_is_wilsons():
    survival = kaplan_meier(np.array([3, 3, 8, 8, 8, 9, 9, 9, 9, 9]), np.array([True] * 5 + [False] * 5), np.arange(10))
    assert survival.steps.tolist() == [0, 3, 8]
    assert survival.held == pytest.approx([1.0, 0.8, 0.5])
    wilson = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert (survival.low[1], survival.high[1]) == pytest.approx((wilson.low, wilson.high))
    assert survival.low[0] == pytest.approx(stats.binomtest(10, 10).proportion_ci(method="wilson").low)
    assert survival.high[0] == 1.0


def test_many_cues_of_one_episode_are_no_more_sure_than_the_episode():
    observed, lost = np.full(40, 10), np.arange(40) % 2 == 0
    sure = kaplan_meier(observed, lost, np.arange(40))
    one = kaplan_meier(observed, lost, np.zeros(40, dtype=int))
    assert one.held[-1] == sure.held[-1] == 0.5
    assert one.high[-1] - one.low[-1] > 2 * (sure.high[-1] - sure.low[-1])


def test_nothing_to_follow_is_an_error_and_rows_without_cues_say_nothing():
    with pytest.raises(DataError, match="at least one cue"):
        kaplan_meier(np.array([], dtype=int), np.array([], dtype=bool), np.array([], dtype=int))
    rows = [{"episodes": [{"score": 1.0, "success": None}], "cue": None}, {"episodes": []}]
    assert in_any_head(rows) is over_heads(rows) is associate(rows) is held_at_need(rows) is None
    assert by_head(rows) == cue_points(rows, 10) == []


def episode(lost, shown=10, asked=40):
    return {"shown": [shown], "asked": [asked], "lost": [lost], "lost_R": [None], "lost_a": [None]}


def a_row(policy, told, successes, target="maze"):
    """A made-up row with these cues: one list of losses an episode, and whether it succeeded."""
    (row,) = [r for r in made_up_rows(target, seeds=1, episodes=len(told), binary=True) if r["policy"] == policy]
    held = [any(value is None or value > 30 for value in losses) for losses in told]
    for entry, kept, won in zip(row["episodes"], held, successes, strict=True):
        entry |= {"success": won, "score": 100.0 * won, "cue_held": float(kept)}
    cue = {"layers": 1, "heads": len(told[0]), "episodes": [episode(losses) for losses in told]}
    metrics = {**row["metrics"], "cue_held": float(np.mean(held)), "cue_heads": 0.5}
    return {**row, "cue": cue, "metrics": metrics}


def test_a_cue_is_held_by_any_head_until_the_last_one_loses_it():
    row = a_row("window", [[5, 12], [5, None], [None, None], [30, 2]], [True] * 4)
    any_head = in_any_head([row])
    assert any_head.at([0, 11, 12, 29, 30]).tolist() == [1.0, 1.0, 0.75, 0.75, 0.5]
    assert any_head.horizon == 30
    assert over_heads([row]).at([4, 5, 12, 30]) == pytest.approx([7 / 8, 5 / 8, 4 / 8, 3 / 8])
    first, second = by_head([row])
    assert first.at([4, 5, 30]).tolist() == [1.0, 0.5, 0.25]
    assert second.at([2, 12, 30]).tolist() == [0.75, 0.5, 0.5]
    assert held_at_need([row]).value == 0.5
    points = cue_points([row], 31)
    assert points[12] == pytest.approx((12, 0.75, 4 / 8))


def test_a_loss_after_the_need_is_no_loss():
    row = a_row("window", [[31], [35], [30], [2]], [True] * 4)
    assert in_any_head([row]).at([29, 30, 31]).tolist() == [0.75, 0.5, 0.5]
    assert held_at_need([row]).value == 0.5


def test_scores_of_episodes_that_held_their_cue_are_compared_with_the_others():
    told = [[None]] * 8 + [[3]] * 8
    found = associate([a_row("window", told, [True] * 8 + [False] * 8)])
    assert (found.held.value, found.lost.value) == (100.0, 0.0)
    assert (found.held_trials, found.lost_trials) == (8, 8)
    assert found.rho == pytest.approx(1.0)
    assert found.p_value == pytest.approx(stats.fisher_exact([[8, 0], [0, 8]]).pvalue)
    same = associate([a_row("window", told, [True] * 16)])
    assert same.rho is same.p_value is None


def test_the_section_follows_from_the_intervals_and_says_when_cues_did_not_matter():
    told, lost = [[None, 5]] * 12, [[3, 5]] * 12
    won, half = [True] * 12, [True, False] * 6
    target = summarise([a_row("full", told, won), a_row("namm:target", told, won), a_row("window", lost, half)])[0]
    said = cues(None, target)
    assert "Does the cue survive?" in said
    assert "the intervals do not overlap" in said
    assert "survives elsewhere" not in said
    target = summarise([a_row("full", told, won), a_row("window", lost, won)])[0]
    assert "survives elsewhere, or is not needed" in cues(None, target)
    assert cues(None, summarise(made_up_rows())[0]) == ""
