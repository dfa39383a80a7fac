"""A rival's budget holds NAMM's mean size, is never smaller, and agrees with a token-by-token simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluations.control.sizes import match_budget, mean_slots, tokens_seen
from evaluations.experiment.matching import slots_held
from namm.errors import ConfigError


def simulated_mean(length: int, interval: int, budget: int) -> float:
    """One token at a time, as the memory does it."""
    size, seen, sizes = 0, 0, []
    for step in range(length):
        for _ in range(2 if step == 0 else 3):
            size, seen = size + 1, seen + 1
            if seen % interval == 0:
                size = min(size, budget)
        sizes.append(size)
    return float(np.mean(sizes))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 400), interval=st.sampled_from([16, 48, 96, 512]), budget=st.integers(1, 700))
def test_predicted_size_is_the_simulated_size(length, interval, budget):
    assert mean_slots([length], interval, budget) == pytest.approx(simulated_mean(length, interval, budget))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(20, 300), min_size=1, max_size=5),
    interval=st.sampled_from([16, 48, 96]),
    asked=st.floats(30, 400),
)
def test_the_smallest_budget_that_is_not_below_namm(lengths, interval, asked):
    match = match_budget(asked, lengths, interval, protected=3)
    everything = mean_slots(lengths, interval, 10**6)
    assert match.predicted >= min(asked, everything) - 1e-6
    if match.budget > 3:
        assert mean_slots(lengths, interval, match.budget - 1) < min(asked, everything)


def test_matching_a_budgeted_policy_gives_its_own_budget_back():
    lengths = [190, 160, 181]
    assert match_budget(mean_slots(lengths, 48, 40), lengths, 48, protected=3).budget == 40


def test_step_t_sees_three_tokens_a_step_less_the_pending_action():
    assert tokens_seen(4).tolist() == [2, 5, 8, 11]
    assert slots_held(np.array([47, 48, 50, 96, 97]), 48, 20).tolist() == [47, 20, 22, 20, 21]


def test_never_below_the_protected_tokens():
    match = match_budget(20.0, [300], interval=48, protected=40)
    assert match.budget == 40
    assert match.predicted > 40.0


def test_no_episodes_is_a_clear_error():
    with pytest.raises(ConfigError, match="run NAMM first"):
        match_budget(20.0, [], interval=48, protected=3)
