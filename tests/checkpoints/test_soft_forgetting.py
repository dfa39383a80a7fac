"""The recipe of soft forgetting, in small: killed and started again it makes the same file, and says what it did."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from transformers import PreTrainedModel

import checkpoints
from checkpoints.recipes import soft_forgetting
from checkpoints.recipes.commands import command_of
from checkpoints.recipes.hindsight import HindsightConfig, start_of
from checkpoints.recipes.soft_forgetting import SoftForgettingConfig, main
from evaluations.hindsight.softly import SoftConfig, SoftTraining, Step
from evaluations.hindsight.training import TrainingConfig, fresh
from evaluations.tasks.lessons import Course, Lesson
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.features import FeatureStatistics

RECALL_LLAMA = Path(checkpoints.__file__).parent / "text" / "recall-llama"


@pytest.mark.parametrize(
    "config",
    [
        HindsightConfig(seeds=(2,)),
        HindsightConfig(
            seeds=(1,), course="longer", documents=True, signals=("spectrogram",), keep=0.3,
            training=TrainingConfig(steps=7, key_first=0.0, thinned=(1.0, 0.5), hold=0.25),
        ),
        SoftForgettingConfig(
            draw=600, dtype="bfloat16", small="checkpoints/text/recall-llama", real="a b",
            training=SoftConfig(gate="least", last_softness=0.01),
        ),
    ],
)  # fmt: skip
def test_the_command_of_a_card_says_every_setting(config: HindsightConfig | SoftForgettingConfig) -> None:
    python, script, *said = shlex.split(command_of("recipe.py", replace(config, out=Path("/a")), ("out",)))
    assert (python, script) == ("python", "recipe.py")
    assert tyro.cli(type(config), args=said) == config


def test_a_start_of_other_statistics_is_refused() -> None:
    namms = RECALL_LLAMA.parent.parent / "namm"
    assert start_of(namms / "text-v3").config.trained_statistics == "sequence"
    with pytest.raises(ConfigError, match="each sequence"):
        start_of(namms / "text-v2")


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_killed_and_started_again_it_makes_the_same_namm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(("pairs",), (144,), (48,), 48)
    monkeypatch.setattr(soft_forgetting, "COURSES", {"hindsight": course})
    monkeypatch.setattr(soft_forgetting, "SMALL", course)
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
            start=tmp_path / "start", out=tmp_path / out, real=str(RECALL_LLAMA), small=str(RECALL_LLAMA), seeds=(0,),
            training=training,
        )  # fmt: skip

    main(config("whole"))
    step = SoftTraining.step

    def killed(training: SoftTraining, models: Sequence[PreTrainedModel], lessons: Sequence[Sequence[Lesson]]) -> Step:
        if training.number == 1:
            raise KeyboardInterrupt
        return step(training, models, lessons)

    monkeypatch.setattr(SoftTraining, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        main(config("twice"))
    monkeypatch.setattr(SoftTraining, "step", step)
    with pytest.raises(ConfigError, match="another folder"):
        main(replace(config("twice"), out=tmp_path / "start"))
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
