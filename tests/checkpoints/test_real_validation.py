"""Validation on a model: everybody answers the same prompts at about the wanted size, and better with more of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import checkpoints
from checkpoints.recipes.real_validation import ValidationConfig, compared, policies
from evaluations.evolution.source import load_source
from namm.errors import ConfigError

CHECKPOINTS = Path(checkpoints.__file__).parent


def test_whom_nobody_could_tell_apart_and_nobody_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="somebody to ask"):
        ValidationConfig(rivals=())
    twins = []
    for place in ("one", "two"):
        shutil.copytree(CHECKPOINTS / "namm" / "text-v3", tmp_path / place / "namm" / "text-v3")
        twins.append(tmp_path / place / "namm" / "text-v3")
    with pytest.raises(ConfigError, match="twice"):
        policies(ValidationConfig(namm=tuple(twins)))


def test_a_namm_reads_the_statistics_that_it_was_made_with() -> None:
    config = ValidationConfig(namm=(CHECKPOINTS / "namm" / "text-v2", CHECKPOINTS / "namm" / "text-v3"))
    made = {name: policy(0.0) for name, policy in policies(config).items()}
    assert [made[f"namm/{name}"].statistics for name in ("text-v2", "text-v3")] == ["source", "sequence"]


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_everybody_answers_at_about_the_wanted_size() -> None:
    config = ValidationConfig(
        namm=(CHECKPOINTS / "namm" / "text-v3",), real=str(CHECKPOINTS / "text" / "recall-llama"), tasks=("pairs",),
        length=288, interval=48, prompts=4,
    )  # fmt: skip
    model, who = load_source(config.real, torch.float32), policies(config)
    quarter, most = (compared(each, who, model, None) for each in (config, replace(config, keep=0.8)))
    assert set(quarter) == {"namm/text-v3", "keydiff"}
    for name, row in quarter.items():
        assert row["kept"] == pytest.approx(0.25, abs=0.06)
        assert most[name]["kept"] == pytest.approx(0.8, abs=0.15)
        assert row["all"] == row["pairs"]
    assert most["namm/text-v3"]["all"] > 95
    assert quarter["namm/text-v3"]["all"] <= 101
