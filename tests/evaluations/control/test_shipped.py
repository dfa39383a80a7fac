"""Suites: which targets they name, what is said where a name is wrong or a checkpoint has not been made."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evaluations.control import shipped
from evaluations.control.shipped import SHIPPED, SUITES, best_for, require_checkpoints, targets_of
from evaluations.control.targets import TargetOptions, resolve_targets
from evaluations.rl import main
from namm.errors import CheckpointError, UnknownNameError

CPU = torch.device("cpu")


def test_every_member_of_every_suite_is_a_target():
    assert all(name in SHIPPED for members in SUITES.values() for name in members)
    assert set(SHIPPED) == {name for members in SUITES.values() for name in members}


def test_the_nine_cells_of_the_locomotion_tables():
    assert len(set(SUITES["d4rl"])) == 9
    assert "walker2d-medium-replay" in SUITES["d4rl"]


def test_several_suites_name_each_target_once():
    joined = targets_of(["default", "memory"])
    assert joined[:3] == ["hopper-medium-expert", "tmaze-150", "tmaze-300"]
    assert len(joined) == len(set(joined)) == len(set(SUITES["default"]) | set(SUITES["memory"]))


def test_the_short_form_leaves_out_the_slow_ones():
    assert targets_of(["default"], quick=True) == ["hopper-medium-expert", "tmaze-150"]


def test_nothing_named_is_the_default_suite():
    named = [target.name for target, _ in resolve_targets(TargetOptions(), CPU)]
    assert named == ["hopper-medium-expert", "tmaze-150", "tmaze-300"]


def test_an_unknown_suite_is_refused(tmp_path, capsys):
    with pytest.raises(UnknownNameError, match="Did you mean 'd4rl'"):
        targets_of(["d4lr"])
    assert main(["--suite", "d4lr", "--out", str(tmp_path / "rl")]) == 2
    assert "Did you mean 'd4rl'" in capsys.readouterr().err


def test_a_missing_checkpoint_names_the_command_that_makes_it(monkeypatch):
    monkeypatch.setitem(
        shipped.SHIPPED._known, "hopper-medium", replace(SHIPPED["hopper-medium"], folder="not-made-yet")
    )
    for options in (TargetOptions(env=["hopper-medium"]), TargetOptions(checkpoint=["hopper-medium"])):
        with pytest.raises(CheckpointError, match=r"python checkpoints/recipes/locomotion\.py hopper-medium"):
            resolve_targets(options, CPU)
    with pytest.raises(CheckpointError) as caught:
        require_checkpoints(SUITES["d4rl"])
    assert "expected the checkpoints of" in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("Hopper-v4", "hopper-medium-expert"),
        ("Walker2d-v5", "walker2d-medium-expert"),
        ("RememberedReacher-v0", "reacher-100"),
        ("Reacher-v5", None),
        ("CartPole-v1", None),
    ],
)
def test_the_shipped_checkpoint_for_an_environment(env_id, name):
    assert best_for(env_id) == name
