"""What follows from which rows: sizes, roles and order of a control experiment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluations.control.plan import Plan, threshold
from evaluations.control.sizes import curve_budgets, mean_slots
from evaluations.experiment.contract import Unit
from evaluations.experiment.names import NamedPolicy
from tests.evaluations.rows.made_up_rows import made_up_rows

SPECS = (
    NamedPolicy.of("native_window"),
    NamedPolicy.of("full"),
    NamedPolicy.of("namm:source"),
    NamedPolicy.of("namm:target"),
    NamedPolicy.of("window"),
    NamedPolicy.of("sink_window"),
)
ROWS = made_up_rows()


def plan(**options) -> Plan:
    return Plan("hopper", SPECS, seeds=(0, 1, 2), interval=48, **options)


def rows_of(*labels: str):
    """As if these policies were finished and nothing else."""

    def rows(unit: Unit):
        return [row for row in ROWS if row["policy"] == unit.spec.label] if unit.spec.label in labels else None

    return rows


def test_rivals_wait_for_every_namm_and_get_the_size_of_the_best():
    first, complete = plan().main(rows_of("full", "namm:source"))
    assert [unit.role for unit in first] == ["reference", "reference", "free", "free"]
    assert not complete
    units, complete = plan().main(rows_of("namm:source", "namm:target"))
    assert complete
    window, sinks = units[4:]
    assert {window.role, sinks.role} == {"matched"}
    assert {window.matched.to, sinks.matched.to} == {"namm:target"}
    assert mean_slots([990], 48, window.budget) >= 70.5 > mean_slots([990], 48, window.budget - 1)
    other, _ = plan(match="namm:source").main(rows_of("namm:source", "namm:target"))
    assert other[4].matched.to == "namm:source"
    assert other[4].budget < window.budget


def test_a_given_budget_makes_everything_known_at_once():
    units, complete = plan(budget=40).main(rows_of())
    assert complete
    assert [(unit.role, unit.budget) for unit in units] == [("reference", None)] * 2 + [("given", 40)] * 4
    assert all(threshold(unit) is None for unit in units)


def test_points_follow_from_the_full_cache_alone_and_cover_every_policy_that_forgets():
    curve = plan(curve=5, curve_seeds=(0, 1))
    assert curve.points(rows_of("namm:source", "namm:target")) == ([], False)
    units, complete = curve.points(rows_of("full"))
    assert complete
    budgets = sorted({unit.budget for unit in units})
    assert budgets == list(curve_budgets([990], 48, 5, smallest=8))
    assert len(units) == 5 * 4
    assert {unit.spec.label for unit in units if unit.budget == budgets[0]} == {spec.label for spec in SPECS[2:]}
    assert {(unit.role, unit.seeds) for unit in units} == {("curve", (0, 1))}
    assert all((threshold(unit) == -np.inf) == unit.spec.is_namm for unit in units)
    assert curve.most_cells() == 6 * 3 + 5 * 4 * 2
    assert plan().points(rows_of("full")) == ([], True)


def test_adding_a_seed_moves_no_point():
    few = Plan("hopper", SPECS, (0, 1), 48, curve=5, curve_seeds=(0, 1)).points(rows_of("full"))
    assert plan(curve=5, curve_seeds=(0, 1)).points(rows_of("full")) == few


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 1000), interval=st.sampled_from([16, 48, 96]), points=st.integers(1, 12))
def test_every_budget_of_a_curve_evicts_and_an_episode_without_updates_has_none(length, interval, points):
    budgets = curve_budgets([length - 1, length + 1], interval, points, smallest=8)
    assert bool(budgets) == (3 * length - 1 >= interval)
    assert list(budgets) == sorted(set(budgets))
    assert all(8 <= budget < (3 * length - 1) // interval * interval for budget in budgets)


@pytest.mark.parametrize("points", [3, 5, 8])
def test_budgets_of_a_curve_are_in_equal_ratios(points):
    budgets = np.array(curve_budgets([1000], 48, points, smallest=8))
    assert len(budgets) == points
    ratios = np.append(budgets, 2976)[1:] / budgets
    assert ratios == pytest.approx(ratios[-1], rel=0.1)
