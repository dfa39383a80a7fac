"""The recipe of soft forgetting, in small: killed and started again it makes the same file, and says what it did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import checkpoints
from checkpoints.recipes import soft_forgetting
from checkpoints.recipes.soft_forgetting import SoftForgettingConfig, main
from evaluations.hindsight.softly import SoftConfig, SoftTraining, Step
from evaluations.hindsight.training import fresh
from evaluations.tasks.lessons import Course, Lesson
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.features import FeatureStatistics

RECALL_LLAMA = Path(checkpoints.__file__).parent / "text" / "recall-llama"


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_killed_and_started_again_it_makes_the_same_namm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(("pairs",), (144,), (48,), 48)
    monkeypatch.setattr(soft_forgetting, "COURSE", course)
    monkeypatch.setattr(soft_forgetting, "CALIBRATION", course)
    monkeypatch.setattr(soft_forgetting, "SAVE_EVERY", 1)
    constants = NAMMConfig(signals=("spectrogram", "key_difference"), interval=48, trained_statistics="sequence")
    nothing = fresh(constants, FeatureStatistics(torch.zeros(1, 17), torch.ones(1, 17)))
    numbers = torch.randn(nothing.flat.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    start = NAMM(constants, numbers, nothing.statistics)
    start.save_pretrained(tmp_path / "start" / "seed-0")
    (tmp_path / "start" / "seed-0" / "card.json").write_text("{}")

    def config(out: str, rate: float = 1e-2) -> SoftForgettingConfig:
        training = SoftConfig(steps=3, batch=1, rate=rate)
        return SoftForgettingConfig(
            start=tmp_path / "start", out=tmp_path / out, real=str(RECALL_LLAMA), seeds=(0,), training=training
        )

    main(config("whole"))
    step = SoftTraining.step

    def killed(training: SoftTraining, model: PreTrainedModel, lessons: Sequence[Lesson]) -> Step:
        if training.number == 1:
            raise KeyboardInterrupt
        return step(training, model, lessons)

    monkeypatch.setattr(SoftTraining, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        main(config("twice"))
    monkeypatch.setattr(SoftTraining, "step", step)
    with pytest.raises(ConfigError, match="other settings"):
        main(config("twice", rate=2e-2))
    main(config("twice"))
    whole, twice = (tmp_path / name / "seed-0" for name in ("whole", "twice"))
    assert (whole / "model.safetensors").read_bytes() == (twice / "model.safetensors").read_bytes()
    assert (whole / "steps.jsonl").read_text() == (twice / "steps.jsonl").read_text()
    card = json.loads((twice / "card.json").read_text())
    made = NAMM.from_pretrained(twice)
    assert card["namm_sha256"] == made.sha256()
    assert card["start_sha256"] == start.sha256()
    assert not torch.equal(made.flat, start.flat)
