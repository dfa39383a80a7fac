"""The recipe of hindsight, in small: from prompts to NAMMs of a size, and of several starts the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import checkpoints
from checkpoints.recipes import hindsight
from checkpoints.recipes.hindsight import START_STEP, HindsightConfig, main
from checkpoints.recipes.hindsight_card import write_card
from checkpoints.recipes.real_validation import Questions, compared
from checkpoints.recipes.sized import under_thresholds
from evaluations.evolution.source import load_source
from evaluations.hindsight.training import TrainingConfig
from evaluations.tasks.lessons import Course
from namm import NAMM
from namm.errors import ConfigError

RECALL_LLAMA = Path(checkpoints.__file__).parent / "text" / "recall-llama"


def test_starts_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match="start or more"):
        HindsightConfig(starts=0)
    with pytest.raises(ConfigError, match="give both the same"):
        HindsightConfig(starts=2, keep=0.4)
    HindsightConfig(starts=2, keep=0.4, choice=Questions(keep=0.4))


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_of_several_starts_the_one_is_kept_that_answers_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(("pairs",), (144,), (48,), 48)
    monkeypatch.setattr(hindsight, "COURSES", {"first": course})
    monkeypatch.setattr(hindsight, "CALIBRATION", course)
    choice = Questions(("pairs",), length=288, interval=48, prompts=3, sizing=1)

    def made(name: str, seeds: tuple[int, ...], starts: int = 1) -> dict[str, object]:
        training = TrainingConfig(steps=30, heads=4, key_first=0.0)
        main(
            HindsightConfig(
                out=tmp_path / name, work=tmp_path, real=str(RECALL_LLAMA), seeds=seeds, starts=starts, choice=choice,
                real_prompts=4, training=training,
            )
        )  # fmt: skip
        return json.loads((tmp_path / name / f"seed-{seeds[0]}" / "card.json").read_text())

    alone = [made("alone", (seed,)) for seed in (7, 7 + START_STEP, 7 + 2 * START_STEP)]
    assert [card["answered"] for card in alone] == [[], [], []]
    model = load_source(str(RECALL_LLAMA), torch.float32)
    namms = [NAMM.from_pretrained(tmp_path / "alone" / f"seed-{card['seed']}") for card in alone]
    who = {str(place): under_thresholds(namm, 48) for place, namm in enumerate(namms)}
    answered = [row["all"] for row in compared(choice, who, model, None).values()]
    assert len(set(answered)) > 1, "else there is nothing to choose"
    chosen = made("chosen", (7,), 3)
    assert chosen["answered"] == pytest.approx(answered, abs=5)  # the same but for where their thresholds were begun
    best = max(range(3), key=answered.__getitem__)
    assert chosen["namm_sha256"] == alone[best]["namm_sha256"]
    assert "--starts 3" in str(chosen["command"])
    write_card(tmp_path / "chosen" / "seed-7", ())
    assert "Of 3 first numbers" in " ".join((tmp_path / "chosen" / "seed-7" / "README.md").read_text().split())
