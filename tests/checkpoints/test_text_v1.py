"""The shipped NAMM is the one its card describes, and does what the card says on prompts nobody chose on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.recipes import text_v1
from evaluations.evolve import EvolveConfig, load_source
from evaluations.tasks.recall.tasks import TASKS, test_seed
from modalities.language.recall import recall
from namm import NAMM
from namm.files import file_sha256
from namm.policies import make_policy

FOLDER = text_v1.TextV1Config().out


def test_card_and_weights_agree() -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["sha256"] == file_sha256(FOLDER / "model.safetensors")
    assert card["namm_sha256"] == NAMM.from_pretrained(FOLDER).sha256()
    assert card["sha256"] in (FOLDER / "README.md").read_text()
    assert card["validation"][card["chosen"]]["score"] >= card["recipe"]["least_score"]


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize(
    ("tokens", "interval"),
    [(288, 48), (288, 32), (864, 96)],
)
def test_it_keeps_three_tenths_and_recalls_nearly_all(tokens: int, interval: int) -> None:
    """Test seed 1: the card's table is from seed 0."""
    torch.set_num_threads(1)
    model = load_source(EvolveConfig().model, torch.float32)
    policy = make_policy("namm", namm=NAMM.from_pretrained(FOLDER), interval=interval)
    score, kept = [], []
    for task in TASKS.values():
        prompts = task.sample(8, tokens, test_seed(1))
        full = recall(model, make_policy("full"), prompts.context, prompts.question, prompts.target)
        ours = recall(model, policy, prompts.context, prompts.question, prompts.target)
        score.append(float(ours.accuracy.mean() / full.accuracy.mean()))
        kept.append(ours.kept_fraction)
    assert np.mean(score) >= 0.95
    assert np.mean(kept) <= 0.31


def test_the_recipe_chains_its_evolutions(tmp_path: Path) -> None:
    runs = text_v1.evolutions(replace(text_v1.TextV1Config(), work=tmp_path))
    assert runs["capped-refined"].start == runs["capped"].out / "namm"
    assert {run.start for name, run in runs.items() if name != "capped-refined"} == {None}
    assert len({run.out for run in runs.values()}) == len(runs)
