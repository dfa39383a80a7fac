"""The shipped recall model does what its card says, and its recipe can be killed and resumed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoints.recipes import recall_llama
from checkpoints.recipes.recall_llama import RecipeConfig, train
from checkpoints.recipes.recall_llama_card import export, wilson, write_card
from checkpoints.recipes.recall_llama_model import ModelConfig, make_model
from checkpoints.recipes.recall_llama_trainer import Stage, TrainingConfig
from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER, RecallVocabulary, default_vocabulary
from evaluations.tasks.recall.scoring import recall_scores
from evaluations.tasks.recall.tasks import TASKS, test_seed
from modalities.huggingface.torchvision import cure_torchvision
from namm.errors import CheckpointError

TINY = RecipeConfig(
    model=ModelConfig(layers=3, width=32, heads=4, kv_heads=2, feed_forward=32),
    training=TrainingConfig(step_tokens=256, minimum_rows=4, bfloat16=False, warmup_steps=2),
)
CURRICULUM = (
    Stage("stream", (64,), {"stream": 2.0, "text": 1.0}, active=4, steps=3, until=2.0),
    Stage("tasks", (96, 128), recall_llama.ALL, active=8, filler=(0.2, 0.8), span=512, steps=5, until=2.0),
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    cure_torchvision()
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TOKENIZER_FOLDER).eval()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_shipped_model_recalls(model, name):
    """With everything remembered at least 95% is right at 1,024 tokens, or there is nothing to forget well."""
    prompts = TASKS[name].sample(12, 1024, test_seed(1))
    assert recall_scores(model, prompts).mean() >= 0.95


def test_shipped_tokenizer_loads_and_agrees():
    """Transformers' tokenizer, the vocabulary of the tasks and plain text give the same ids."""
    cure_torchvision()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    vocabulary = default_vocabulary()
    assert len(tokenizer) == vocabulary.size
    assert tokenizer.bos_token_id == int(vocabulary.begin)
    assert tokenizer.pad_token_id == int(vocabulary.pad)
    ids = TASKS["copy"].sample(1, 512, test_seed(0)).context[0].tolist()
    text = tokenizer.decode(ids)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids == vocabulary.tokenizer.encode(text).ids


def test_card_belongs_to_the_weights():
    """Scores of other weights on the card would be worse than none."""
    card = json.loads((TOKENIZER_FOLDER / "card.json").read_text())
    assert card["sha256"] == hashlib.sha256((TOKENIZER_FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert card["sha256"] in (TOKENIZER_FOLDER / "README.md").read_text()
    at_1024 = {row["task"]: row["score"] for row in card["recall"] if row["context_tokens"] == 1024}
    assert set(at_1024) == set(TASKS)
    assert min(at_1024.values()) >= 0.95


@pytest.mark.slow
def test_resume_equals_uninterrupted(tmp_path: Path):
    """A state that forgot a moment, a counter or the stage would train other weights."""
    whole = train(replace(TINY, work=tmp_path / "whole"), CURRICULUM, default_vocabulary())
    for stop in (2, 3, None):  # within the first stage, within the second, to the end
        parts = train(replace(TINY, work=tmp_path / "parts", stop_after_steps=stop), CURRICULUM, default_vocabulary())
    assert whole.progress.finished
    assert parts.progress.finished
    assert (parts.progress.step, parts.progress.tokens) == (whole.progress.step, whole.progress.tokens)
    assert parts.progress.stage_steps == {"stream": 3, "tasks": 5}
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, parts.parameters[name]), name


def test_damaged_state_is_told(tmp_path: Path):
    """A half-written or foreign state must neither be trained on nor be lost silently."""
    (tmp_path / "state.safetensors").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="delete it"):
        train(replace(TINY, work=tmp_path, stop_after_steps=1), CURRICULUM, default_vocabulary())


def test_stuck_starts_are_dropped(tmp_path: Path):
    """A seed that stays on the plateau gives way to the next one."""
    training = replace(TINY.training, patience_steps=2, patience_accuracy=1.1)
    stages = (replace(CURRICULUM[0], steps=10),)
    trainer = train(replace(TINY, training=training, work=tmp_path, stop_after_steps=3), stages, default_vocabulary())
    assert trainer.progress.abandoned == [0]
    assert (trainer.progress.seed, trainer.progress.step) == (1, 1)


def test_export_and_card_of_a_fresh_model(tmp_path: Path):
    """The folder that the recipe writes loads with transformers and carries a card for every task."""
    vocabulary = default_vocabulary()
    model = make_model(TINY.model, vocabulary, seed=0).eval()
    export(model, vocabulary, tmp_path / "out")
    training = {"seed": 0, "abandoned": [], "step": 0, "tokens": 0, "seconds": 0.0, "threads": 1, "bfloat16": False}
    card = write_card(model, vocabulary, tmp_path / "out", {**training, "stage_steps": {}}, prompts=1, lengths=(64,))
    assert {row["task"] for row in card["recall"]} == set(TASKS)
    assert RecallVocabulary.from_folder(tmp_path / "out").size == vocabulary.size
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(loaded.named_parameters())[name])
    assert not list(tmp_path.glob(".*"))


def test_wilson_interval_has_width_at_one():
    """All right on 100 prompts is no proof of 100%."""
    low, high = wilson(1.0, 100)
    assert (round(low, 3), high) == (0.963, 1.0)
