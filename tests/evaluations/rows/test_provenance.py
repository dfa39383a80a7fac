"""Rows say which code made them, and an experiment that keeps rows of other code says so."""

from __future__ import annotations

import json

import pytest

from evaluations.rl import main
from evaluations.rows.provenance import _without_comments, code_sha256, made_with, versions, versions_differ
from evaluations.rows.trials import registered
from namm.errors import ConfigError
from tests.evaluations.control.tiny_control import tiny_decision_transformer


def test_the_digest_is_blind_to_words_and_sees_code():
    before = 'def f(x):\n    """Says."""\n    return x + 1  # why\n'
    reworded = '"""Module."""\ndef f(x):\n    return (x +\n            1)\n'
    assert _without_comments(before) == _without_comments(reworded)
    assert _without_comments(before) != _without_comments(before.replace("1", "2"))
    assert len(code_sha256()) == 64


def test_all_that_decides_exists():
    digests = {modality: code_sha256(trials.code) for modality, trials in registered().items()}
    assert len(set(digests.values())) == len(digests) > 1  # each modality's own code is in its digest
    with pytest.raises(ConfigError, match=r"evaluations\.nowhere"):
        code_sha256(("evaluations.nowhere",))


def test_another_commit_of_the_same_code_is_no_difference():
    now = versions()
    assert versions_differ({**now, "git_commit": "elsewhere"}, now) == ""
    assert versions_differ({**now, "torch": "1.0", "code": "abc"}, now) == (
        f"torch 1.0, now {now['torch']}, code abc, now {now['code']}"
    )
    assert versions_differ({}, now) == ""  # rows older than this


def test_rows_of_other_code_are_kept_and_named(tmp_path, capsys):
    checkpoint = tiny_decision_transformer(tmp_path / "hopper")
    small = ["--policy", "full", "--seeds", "0", "--episodes", "1", "--max-steps", "20", "--wandb", "disabled"]
    command = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "rl"), "--no-video", *small]
    assert main(command) == 0
    assert "other versions" not in capsys.readouterr().out
    path = tmp_path / "rl" / "rows.jsonl"
    row = json.loads(path.read_text())
    row["versions"]["code"] = "abc"
    path.write_text(json.dumps(row) + "\n")
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "kept from an earlier run" in output
    assert f"code abc, now {made_with('control')['code']}" in output
