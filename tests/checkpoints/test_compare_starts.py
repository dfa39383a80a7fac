"""The comparison of starts, from recordings to the table, in small: that it runs, goes on, and judges what it says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints.recipes import compare_starts
from checkpoints.recipes.compare_starts import (
    BOTH,
    COST,
    HINDSIGHT,
    ZERO,
    StartsConfig,
    made,
    main,
    over_prompts_and_runs,
    table,
)
from evaluations.hindsight.training import TrainingConfig
from namm import NAMM
from namm.errors import ConfigError


def test_the_table_pairs_ways_on_seeds_and_prompts() -> None:
    prompts = np.linspace(0.2, 0.8, 12)
    run = {"fitness": prompts.tolist(), "kept": [0.3] * 12, "kept at 25%": [0.25] * 12}
    found = {
        way: [run | {"ratio at 25%": (prompts + plus + 0.01 * seed).tolist()} for seed in range(3)]
        for way, plus in ((ZERO, 0.0), (HINDSIGHT, 0.1), (BOTH, 0.15))
    }
    text = table(found)
    assert f"{BOTH}, minus {ZERO}: +0.150 [+0.150, +0.150] at 25%." in text
    assert f"{BOTH}, minus {HINDSIGHT}: +0.050 [+0.050, +0.050] at 25%." in text
    assert f"| {ZERO} | 0.500 [" in text


def test_runs_that_differ_widen_the_interval() -> None:
    prompts = [0.4, 0.5, 0.6] * 4
    alike = over_prompts_and_runs([prompts] * 3)
    apart = over_prompts_and_runs([[value + plus for value in prompts] for plus in (-0.1, 0.0, 0.1)])
    assert apart.value == pytest.approx(alike.value)
    assert apart.high - apart.low > 0.4 > alike.high - alike.low


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_it_runs_and_goes_on_without_making_anything_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On prompts of a third of the length, and a start that is left just enough for one round of evolution."""
    monkeypatch.setattr(compare_starts, "SMALL", replace(compare_starts.SMALL, lengths=(96,), intervals=(48,)))
    monkeypatch.setattr(compare_starts, "SIZING_PROMPTS", 1)
    monkeypatch.setattr(compare_starts, "SIZED", replace(compare_starts.SIZED, lengths=(96,)))
    config = StartsConfig(out=tmp_path, seeds=(0,), recorded=2, test=2, population=4, training=TrainingConfig(steps=8))
    made(config, HINDSIGHT, 0)
    cost = json.loads((tmp_path / "hindsight-seed0" / COST).read_text())
    config = replace(config, seconds=cost + 0.1)
    main(config)
    first = (tmp_path / "table.md").read_text()
    for way in ("evolution-from-zero", "hindsight", "hindsight-then-evolution"):
        judged = json.loads((tmp_path / f"judged-{way}-0.json").read_text())
        assert judged["sha256"] == NAMM.from_pretrained(tmp_path / f"{way}-seed0").sha256()
        assert all(0.0 <= value <= 1.0 for value in judged["ratio at 25%"])
        assert len(judged["fitness"]) == 2
    assert not (tmp_path / "hindsight-seed0" / "evolution").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    main(config)
    assert (tmp_path / "table.md").read_text() == first
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    with pytest.raises(ConfigError, match="other settings"):
        main(replace(config, price=0.1))
    shutil.rmtree(tmp_path / "hindsight-then-evolution-seed0")
    with pytest.raises(ConfigError, match="Hindsight alone took"):
        made(replace(config, seconds=0.1), BOTH, 0)
