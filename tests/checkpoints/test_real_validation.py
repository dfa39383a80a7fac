"""Validation on a model: everybody answers the same prompts at about the wanted size, and better with more of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import checkpoints
from checkpoints.recipes.real_validation import ValidationConfig, compared

CHECKPOINTS = Path(checkpoints.__file__).parent


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_everybody_answers_at_about_the_wanted_size() -> None:
    config = ValidationConfig(
        namm=(CHECKPOINTS / "namm" / "text-v3",), real=str(CHECKPOINTS / "text" / "recall-llama"), tasks=("pairs",),
        length=288, interval=48, prompts=4,
    )  # fmt: skip
    quarter, most = compared(config), compared(replace(config, keep=0.8))
    assert set(quarter) == {"namm/text-v3", "keydiff"}
    for name, row in quarter.items():
        assert row["kept"] == pytest.approx(0.25, abs=0.06)
        assert most[name]["kept"] == pytest.approx(0.8, abs=0.15)
        assert row["all"] == row["pairs"]
    assert float(str(most["namm/text-v3"]["all"])) > 95
    assert float(str(quarter["namm/text-v3"]["all"])) <= 101
