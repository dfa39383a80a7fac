"""Small evolutions side by side: continued where they were, judged alike, compared seed by seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from checkpoints.recipes import ablations, compare_optimizers
from checkpoints.recipes.evolution_grid import SMALL, Arm, Grid, interval, run, table
from evaluations.evolution.searches import OPTIMIZERS, make_optimizer
from namm import NAMMConfig


@pytest.mark.slow
def test_a_finished_cell_is_not_evolved_again_and_arms_share_their_prompts(tmp_path: Path) -> None:
    fitness = replace(SMALL, prompts=1, context_tokens=(64,), intervals=(32,), validation_prompts=1)
    search = make_optimizer("cmaes-isotropic", 4, 0.2)
    arms = {
        "BAM": Arm(search, NAMMConfig(interval=32), fitness),
        "MLP without recency": Arm(
            search, NAMMConfig(interval=32, scorer="mlp", recency_dim=0, signals=("mean",)), fitness
        ),
    }
    grid = Grid(tmp_path, seeds=1, generations=2, judged_on=2)
    cells = run(grid, arms)
    rows = [(tmp_path / f"{name}-0" / "history.jsonl").read_text() for name in arms]
    seeds = [[json.loads(line)["seed"] for line in text.splitlines()] for text in rows]
    assert seeds[0] == seeds[1]
    assert run(grid, arms) == cells
    assert [(tmp_path / f"{name}-0" / "history.jsonl").read_text() for name in arms] == rows
    assert json.loads((tmp_path / "cells.json").read_text())["cells"] == cells


def test_intervals_are_students_and_differences_are_paired() -> None:
    found = interval([0.1, 0.4, 0.7])
    low, high = stats.t.interval(0.95, 2, 0.4, stats.sem([0.1, 0.4, 0.7]))
    assert (found.value, found.low, found.high) == pytest.approx((0.4, low, high))
    assert not interval([0.3]).is_bounded
    base = {"score": 1.0, "kept": 0.5, "sigma": 0.2, "axis_ratio": 1.0, "seconds": 3.0}
    cells = {
        name: [{"fitness": value + shift, **base} for value in (0.1, 0.4, 0.7)]
        for name, shift in (("a", 0), ("b", 0.1))
    }
    lines = table(cells, "a").splitlines()
    assert lines[2].startswith("| b | 0.500")
    assert "+0.100 [+0.100, +0.100]" in lines[2]


def test_the_shipped_grids_can_be_made() -> None:
    for name, (optimizer, sigma, antithetic) in compare_optimizers.ARMS.items():
        assert optimizer in OPTIMIZERS, name
        assert make_optimizer(optimizer, 32, sigma, antithetic).population == 32
    baseline = ablations.ARMS["baseline"]
    assert all(arm.search == baseline.search for arm in ablations.ARMS.values())
    assert len({arm.namm for arm in ablations.ARMS.values()}) == len(ablations.ARMS)
