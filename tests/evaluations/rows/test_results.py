"""Rows are never lost, never half-written, and reused exactly when the same cell is asked for again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence

import pytest

from evaluations.rows.provenance import made_with
from evaluations.rows.results import Cell, Results, Row
from namm.errors import ConfigError, DataError, StorageError
from namm.files import write_atomically


def cell(policy: str = "h2o", seed: int = 0, **identity) -> Cell:
    return Cell("hopper", "Hopper-v5", policy, seed, {"budget": 40, "interval": 48, **identity})


def finish(cells: Sequence[Cell], results: Results, play: Callable[[Cell], dict]) -> list[Row]:
    """Plays what has no row, cell by cell, as whoever holds the claims does."""
    for unfinished in [c for c in cells if results.get(c) is None]:
        results.append([unfinished], [play(unfinished)])
    return results.rows(cells)


def test_key_changes_with_everything_that_decides_the_result_and_with_nothing_else():
    base = cell()
    others = [cell("window"), cell(seed=1), cell(budget=41), cell(interval=96), cell(checkpoint="ab"), cell(target=3.0)]
    assert len({base.key, *(other.key for other in others)}) == 1 + len(others)
    shuffled = Cell("hopper", "Hopper-v5", "h2o", 0, {"interval": 48, "budget": 40})
    assert shuffled.key == base.key


def test_key_is_the_same_in_every_process():
    """Python's own hash() is salted per process: a key made of it would never be found again."""
    assert Cell("t", "e", "p", 0, {"a": 1}).key == "bdd575660a061e3d"


def test_a_second_run_reuses_every_row_and_calls_nothing(tmp_path):
    cells = [cell(seed=s) for s in range(3)]
    first = finish(cells, Results(tmp_path), lambda c: {"score": c.seed * 1.5})
    second = finish(cells, Results(tmp_path), _never)
    assert second == first
    assert [row["score"] for row in second] == [0.0, 1.5, 3.0]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


def test_a_crash_in_a_cell_loses_only_that_cell(tmp_path):
    cells = [cell(seed=s) for s in range(4)]

    def run(c: Cell) -> dict:
        if c.seed == 2:
            raise KeyboardInterrupt
        return {"score": c.seed}

    with pytest.raises(KeyboardInterrupt):
        finish(cells, Results(tmp_path), run)
    ran = []
    finish(cells, Results(tmp_path), lambda c: ran.append(c.seed) or {"score": c.seed})
    assert ran == [2, 3]


def test_rows_of_another_configuration_stay_and_are_not_mixed_in(tmp_path):
    finish([cell(budget=40)], Results(tmp_path), lambda c: {"score": 1})
    results = Results(tmp_path)
    rows = finish([cell(budget=50)], results, lambda c: {"score": 2})
    assert [row["score"] for row in rows] == [2]
    assert len(Results(tmp_path)) == 2
    assert [row["score"] for row in results.rows([cell(budget=40), cell(budget=99)])] == [1]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_damaged_last_line_is_moved_aside_and_its_cell_runs_again(tmp_path, cut):
    cells = [cell(seed=s) for s in range(3)]
    rows = finish(cells, Results(tmp_path), lambda c: {"score": c.seed})
    path = tmp_path / "rows.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]) + whole[2].rstrip()[:cut])
    with pytest.warns(UserWarning, match=r"moved to rows\.damaged"):
        results = Results(tmp_path)
    assert path.read_bytes() == b"".join(whole[:2])
    assert (tmp_path / "rows.damaged").read_bytes() == whole[2].rstrip()[:cut] + b"\n"
    ran = []
    again = finish(cells, results, lambda c: ran.append(c.seed) or {"score": c.seed})
    assert ran == [2]
    assert [row["score"] for row in again] == [row["score"] for row in rows]


def test_a_damaged_line_in_the_middle_is_a_clear_error_and_nothing_is_touched(tmp_path):
    finish([cell(seed=s) for s in range(3)], Results(tmp_path), lambda c: {"score": 0})
    path = tmp_path / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1][:30] + "\n"
    path.write_text("".join(lines))
    with pytest.raises(DataError, match="line 2 of 3"):
        Results(tmp_path)
    assert path.read_text() == "".join(lines)


def test_a_whole_last_line_without_newline_is_kept_and_the_next_row_gets_its_own_line(tmp_path):
    finish([cell()], Results(tmp_path), lambda c: {"score": 0})
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    finish([cell(), cell(seed=1)], Results(tmp_path), lambda c: {"score": 1})
    assert [json.loads(line)["score"] for line in path.read_text().splitlines()] == [0, 1]


def test_not_a_number_becomes_null_so_that_every_reader_can_parse_the_row(tmp_path):
    row = finish([cell()], Results(tmp_path), lambda c: {"score": math.nan, "list": [math.inf, 1.0]})[0]
    assert row["score"] is None
    assert row["list"] == [None, 1.0]
    assert "NaN" not in (tmp_path / "rows.jsonl").read_text()


def test_unwritable_folder_is_refused_before_any_work(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ConfigError, match="--out"):
        Results(blocked / "results")
    with pytest.raises(ConfigError, match="--out"):
        Results("/proc/results")


def test_config_is_replaced_atomically_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    results = Results(tmp_path)
    results.write_config({"seeds": (0, 1), "out": tmp_path})
    before = (tmp_path / "config.json").read_text()
    assert json.loads(before) == {"seeds": [0, 1], "out": str(tmp_path)}

    def fail(*_):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="disk gone"):
        write_atomically(tmp_path / "config.json", "half")
    assert (tmp_path / "config.json").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json"]


def test_versions_name_what_decides_the_numbers():
    found = made_with("control")
    assert {"python", "torch", "transformers", "gymnasium", "mujoco", "namm_suite", "git_commit"} <= set(found)
    assert found["torch"].startswith("2.")


def _never(_) -> list:
    raise AssertionError("a finished cell was run again")
