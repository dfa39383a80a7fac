"""control.json, config.json, options: a value of another kind is one line of file, field, expected, found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluations.rl import main
from tests.evaluations.control.tiny_control import tiny_decision_transformer, tiny_namm


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_decision_transformer(tmp_path_factory.mktemp("facts") / "model", "ContinuousTMaze-v0")


def told(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that must end with a mistake in the input."""
    assert main([str(word) for word in words]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("return_scale", 0, "a finite number above 0"),
        ("return_scale", "1000", "a finite number above 0"),
        ("return_scale", float("nan"), "a finite number above 0"),
        ("return_scale", None, "a finite number above 0"),
        ("context_steps", 20.0, "a whole number of 1 or more"),
        ("context_steps", 0, "a whole number of 1 or more"),
        ("state_std", [0.0] + [1.0] * 5, "a finite number above 0 in state_std[0]"),
        ("state_std", [1.0] * 5 + [-1.0], "a finite number above 0 in state_std[5]"),
        ("state_mean", ["0"] * 6, "a finite number in state_mean[0]"),
        ("state_mean", 0.0, "a list"),
        ("target_return", float("inf"), "a finite number"),
        ("reference_scores", [1.0, 1.0], "a return above random (1)"),
        ("reference_scores", [5.0, 1.0], "a return above random (5)"),
        ("reference_scores", [1.0], "a list of 2"),
        ("reference_scores", [1.0, None], "a finite number in reference_scores[1]"),
        ("env_kwargs", {"corridor_steps": float("nan")}, "finite numbers in env_kwargs.corridor_steps"),
        ("env_kwargs", [], "an object"),
        ("env_id", 5, "text in env_id"),
        ("env_id", "", "the id of an environment"),
    ],
)
def test_facts_of_another_kind_are_refused_by_name(checkpoint, tmp_path, capsys, field, value, expected):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    facts = json.loads((folder / "control.json").read_text())
    (folder / "control.json").write_text(json.dumps({**facts, field: value}))
    text = told(["--checkpoint", folder, "--policy", "full", "--out", tmp_path / "rl"], capsys)
    assert expected in text
    assert f"{folder / 'control.json'}" in text
    assert field in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--target-return", "nan"], "a finite number or null in --target-return, found nan"),
        (["--return-scale", "0"], "a finite number above 0 or null in --return-scale, found 0.0"),
        (["--return-scale", "inf"], "--return-scale, found inf"),
        (["--context-steps", "0"], "a whole number of 1 or more or null in --context-steps, found 0"),
        (["--reference", "3", "3"], "a return above random (3) in expert of --reference, found 3.0"),
        (["--reference", "nan", "3"], "--reference[0], found nan"),
        (["--episodes", "10001"], "--episodes must be 10000 or fewer"),
    ],
)
def test_numbers_on_the_command_line_are_finite_and_in_range(tmp_path, capsys, options, expected):
    assert expected in told(["--env", "tmaze-150", "--policy", "full", "--out", tmp_path / "rl", *options], capsys)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("interval", "48", "a whole number in interval of"),
        ("interval", 48.0, "a whole number in interval of"),
        ("seeds", [0, "1"], "a whole number in seeds[1] of"),
        ("store", "packd", "one of 'packed', 'padded' in store of"),
        ("video", "yes", "true or false in video of"),
        ("target_return", float("nan"), "a finite number or null in target_return of"),
        ("namm", 3, "a path in namm of"),
    ],
)
def test_settings_of_an_earlier_run_are_checked(tmp_path, capsys, field, value, expected):
    (tmp_path / "config.json").write_text(json.dumps({field: value}))
    assert expected in told(["--config", tmp_path / "config.json", "--out", tmp_path / "rl"], capsys)


def test_a_namm_of_another_kind_is_named_by_the_command(checkpoint, tmp_path, capsys):
    folder = tiny_namm(tmp_path / "namm")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "hidden": "32"}))
    words = ["--checkpoint", checkpoint, "--namm", folder, "--policy", "namm:source", "--out", tmp_path / "rl"]
    assert f"in hidden of {folder / 'config.json'}, found '32' (text)" in told(words, capsys)
