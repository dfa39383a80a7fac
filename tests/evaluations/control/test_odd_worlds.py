"""Other people's environments: one kind of score a target, no result lost to a picture, nothing assumed in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluations.rl import main
from evaluations.rows.results import Cell, Results
from evaluations.rows.score_kinds import settled
from modalities.control.worker import said_success
from tests.evaluations.control.odd_worlds import odd_checkpoint

pytestmark = pytest.mark.slow


def play(folder: Path, *options: object, world: str = "OddWorld", **facts: Any) -> list[dict[str, Any]]:
    """Rows of a small experiment, by key (the last of each counts)."""
    checkpoint = odd_checkpoint(folder / "model", world, **facts)
    words = ["--checkpoint", checkpoint, "--out", folder / "rl", "--wandb", "disabled", "--episodes", "2"]
    words += ["--policy", "full", *options]
    assert main([str(word) for word in words]) == 0
    rows = [json.loads(line) for line in (folder / "rl" / "rows.jsonl").read_text().splitlines()]
    return list({row["key"]: row for row in rows}.values())


@pytest.mark.parametrize(
    "options",
    [
        {"tells": "once"},
        {"tells": "then_false"},
        {"key": "is_success", "tells": "once"},
        {"key": "is_success", "tells": "then_false", "yes": 1.0},
        {"tells": "once", "yes": 1},
    ],
)
def test_a_goal_that_was_reached_stays_reached_and_silence_means_it_was_not(tmp_path, options):
    """Reset seeds 10000 and 10001: the first reaches the goal, and nobody speaks of it in the last step."""
    (row,) = play(tmp_path, "--seeds", 0, "--no-video", env_kwargs=options)
    assert [episode["success"] for episode in row["episodes"]] == [True, False]
    assert [episode["score"] for episode in row["episodes"]] == [100.0, 0.0]
    assert [episode["return"] for episode in row["episodes"]] == [8.0, 8.0]
    assert (row["score"], row["score_name"], row["metrics"]["success"]) == (50.0, "success rate", 0.5)
    assert bool([remark for remark in row["remarks"] if "never told" in remark]) == (options["tells"] == "once")


def test_an_environment_that_never_tells_has_returns(tmp_path):
    (row,) = play(tmp_path, "--seeds", 0, "--no-video", env_kwargs={"tells": "never"})
    assert (row["score"], row["score_name"], row["metrics"]["success"]) == (8.0, "return", None)


def test_the_kind_of_score_can_be_asked_for_and_is_part_of_the_row(tmp_path):
    (row,) = play(tmp_path, "--seeds", 0, "--no-video", "--score", "return")
    assert (row["score"], row["score_name"], row["identity"]["score"]) == (8.0, "return", "return")
    (_, row) = play(tmp_path, "--seeds", 0, "--no-video", "--score", "success", env_kwargs={"tells": "never"})
    assert (row["score"], row["score_name"]) == (0.0, "success rate")


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({}, None),
        ({"success": None}, None),
        ({"success": "yes"}, None),
        ({"success": float("nan")}, None),
        ({"success": [1, 0]}, None),
        ({"success": np.bool_(True)}, True),
        ({"success": np.array([0.0])}, False),
        ({"success": 0, "is_success": 1.0}, True),
        ({"is_success": False}, False),
    ],
)
def test_what_an_info_says_of_success(info, said):
    assert said_success(info) is said


def made_up(target: str, policy: str, successes: list[bool | None], **identity: Any) -> tuple[Cell, dict[str, Any]]:
    episodes = [{"reset_seed": i, "return": 3.0, "success": s, "score": 3.0} for i, s in enumerate(successes)]
    content = {"score": 3.0, "score_name": "return", "metrics": {"success": None}, "episodes": episodes}
    return Cell(target, "World-v0", policy, 0, identity), content


def test_rows_written_before_anybody_told_get_the_targets_kind(tmp_path):
    """One policy never reaches the goal and says nothing; it is played first, in another process even."""
    silent, told = made_up("a", "random", [None, None]), made_up("a", "full", [True, None])
    other, asked = made_up("b", "full", [None]), made_up("a", "oldest", [None], score="return")
    first, second = Results(tmp_path), Results(tmp_path)
    first.append([silent[0], other[0], asked[0]], [silent[1], other[1], asked[1]])
    second.append([told[0]], [told[1]])
    first.refresh()
    for results in (first, second, Results(tmp_path)):
        results.refresh()
        found = {cell.policy: results.get(cell) for cell in (silent[0], told[0])}
        assert {name: (row["score"], row["score_name"]) for name, row in found.items()} == {
            "random": (0.0, "success rate"),
            "full": (50.0, "success rate"),
        }
        assert [results.get(cell)["score"] for cell in (other[0], asked[0])] == [3.0, 3.0]
        assert settled(results.rows([silent[0], told[0]])) == []
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 6  # each corrected once


@pytest.mark.parametrize("wrong", ["reward", "state"])
def test_an_environment_that_gives_nan_is_named_and_no_row_is_written(tmp_path, capsys, wrong):
    checkpoint = odd_checkpoint(tmp_path / "model", env_kwargs={"wrong": wrong})
    words = ["--checkpoint", checkpoint, "--out", tmp_path / "rl", "--wandb", "disabled", "--policy", "full"]
    assert main([str(word) for word in words]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"found NaN or infinity in the {wrong} after step 4 of the episode with reset seed 10000" in told
    assert not (tmp_path / "rl" / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("world", "options", "reason"),
    [
        ("OddWorld", {}, "OddWorld-v0 has no render mode rgb_array (it has none)"),
        ("DrawsOddly", {"draws": "raises"}, "RuntimeError: an OpenGL platform library has not been loaded"),
        ("DrawsOddly", {"draws": "nothing"}, "found NoneType"),
        ("DrawsOddly", {"draws": "grey"}, "found an array of shape (4, 4)"),
        ("DrawsOddly", {"draws": "text"}, "found str"),
        ("NeedsDisplay", {}, "ImportError: libGL.so.1"),
    ],
)
def test_what_cannot_be_drawn_costs_a_line_and_no_result(tmp_path, capsys, world, options, reason):
    rows = play(tmp_path, "--seeds", 0, 1, world=world, env_kwargs=options)
    assert len(rows) == 2
    assert (tmp_path / "rl" / "report.html").is_file()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no animation")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert not list((tmp_path / "rl" / "media").glob("*.gif"))


def test_what_is_assumed_is_said_in_the_row_and_has_an_option(tmp_path, capsys):
    reference = {"reference_scores": [1.0, 5.0], "target_return": None}
    (row,) = play(tmp_path, "--seeds", 0, "--no-video", "--score", "return", **reference)
    assert [remark.partition(" (--")[0] for remark in row["remarks"]] == [
        "assumed: a return scale of 1000",
        "assumed: a native window of 20 steps",
        "assumed: a target return of 5, the expert's of the reference scores",
    ]
    assert "assumed: a return scale of 1000" in capsys.readouterr().out
    options = ["--return-scale", 50, "--context-steps", 5, "--reference", 0, 16, "--target-return", 4]
    (_, row) = play(tmp_path, "--seeds", 0, "--no-video", "--score", "return", *options, **reference)
    assert row["remarks"] == []
    facts = row["identity"]["facts"]
    assert (facts["return_scale"], facts["context_steps"]) == (50.0, 5)
    assert (row["score"], row["score_name"]) == (50.0, "normalised score")
