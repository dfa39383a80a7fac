"""Evolutions in real processes: any number of ranks, and kill -9 at any moment, come to the same bits."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from namm.evolution.checkpoint import load_state
from namm.evolution.loop import evolve
from tests.namm.evolution_worlds import CONFIG, PARAMS, fitness, outcome, start_world, validate, wait_for


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    evolve(fitness, torch.zeros(PARAMS), CONFIG, folder, validate=validate)
    return folder


def assert_same(folder: Path, reference: Path) -> None:
    rows, result = outcome(folder)
    expected_rows, expected = outcome(reference)
    assert rows == expected_rows
    assert torch.equal(result.mean, expected.mean)
    assert torch.equal(result.best_mean, expected.best_mean)
    tensors, expected_tensors = load_state(folder)[0], load_state(reference)[0]
    assert all(torch.equal(tensors[name], value) for name, value in expected_tensors.items())
    assert not (folder / "not-the-leader").exists()


def test_a_failed_part_costs_its_failed_candidates_only(reference: Path) -> None:
    rows = outcome(reference)[0]
    assert 0 < rows[2]["failed"] < 10
    assert rows[2]["errors"] == ["RuntimeError: one of these is too much"]
    assert [row["failed"] for row in rows if row["generation"] != 3] == [0] * 11


def test_the_batch_decides_the_last_bits_so_parts_are_fixed(reference: Path, tmp_path: Path) -> None:
    """Without this the test below would prove nothing."""
    evolve(fitness, torch.zeros(PARAMS), replace(CONFIG, part=10), tmp_path, validate=validate)
    assert outcome(tmp_path)[0][0]["fitness"] != outcome(reference)[0][0]["fitness"]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_a_population_without_changing_a_bit(size: int, tmp_path: Path, reference: Path) -> None:
    """Four parts and one measurement of noise: shares are uneven with two ranks and with three."""
    ranks = start_world(tmp_path, size)
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * size
    assert_same(tmp_path, reference)


def test_killed_at_random_moments_and_continued(tmp_path: Path, reference: Path) -> None:
    """kill -9 between and within generations, of runs of one and of two ranks, until the run is done."""
    moments = random.Random(0)
    kills = 0
    while kills < 8:
        size = 1 + kills % 2
        ranks = start_world(tmp_path, size, pause_s=0.01)
        before = len(outcome(tmp_path)[0]) if (tmp_path / "state.json").exists() else 0
        wait_for(lambda before=before: (tmp_path / "history.jsonl").exists() and _lines(tmp_path) > min(before, 10))
        time.sleep(moments.uniform(0.0, 0.06))
        for rank in ranks:
            rank.kill()
            rank.join(60)
        kills += any(rank.exitcode == -signal.SIGKILL for rank in ranks)
        if all(rank.exitcode == 0 for rank in ranks):
            break
    for rank in start_world(tmp_path, 1):
        rank.join(60)
    assert kills >= 4
    assert_same(tmp_path, reference)


def _lines(folder: Path) -> int:
    return (folder / "history.jsonl").read_bytes().count(b"\n")


def test_asked_to_stop_two_ranks_finish_the_generation_together(tmp_path: Path, reference: Path) -> None:
    """SIGTERM to one rank alone stops both, after the same generation."""
    ranks = start_world(tmp_path, 2, pause_s=0.02)
    wait_for(lambda: (tmp_path / "history.jsonl").exists() and _lines(tmp_path) >= 2)
    ranks[1].terminate()
    for rank in ranks:
        rank.join(60)
    assert all(rank.exitcode != 0 for rank in ranks)
    done = load_state(tmp_path)[1]["search"]["generation"]
    assert 2 <= done < 12
    assert _lines(tmp_path) == done
    for rank in start_world(tmp_path, 1):
        rank.join(60)
    assert_same(tmp_path, reference)
