"""The shipped video model does what its card says, stock transformers run it, and its recipe can be resumed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
import modalities  # noqa: F401  (transformers must come after it)
from checkpoints.recipes.video_alignment import AlignmentConfig
from checkpoints.recipes.video_batches import Layout
from checkpoints.recipes.video_gallery import Asked
from checkpoints.recipes.video_language import PROMPT, LanguageConfig, make_processor, make_video_model
from checkpoints.recipes.video_measure import answers, chance, rendered_scores, seen, table_scores
from checkpoints.recipes.video_model import RecipeConfig, train
from checkpoints.recipes.video_tower import TowerConfig, TowerTrainer, folder_for
from checkpoints.recipes.video_trainer import Stage, TrainingConfig
from evaluations.tasks.video.questions import CHOICES, questions
from evaluations.tasks.video.rendered import Shape, draw_clip

pytest.importorskip("easy_vqa")
open_clip = pytest.importorskip("open_clip")

FOLDER = Path(checkpoints.__file__).parent / "video" / "rendered-llava"


LEAST = 0.97
"""Accuracy of the shipped model over all kinds of questions."""

shipped = pytest.mark.skipif(not FOLDER.exists(), reason="the model is still in training")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    from transformers import LlavaNextVideoForConditionalGeneration

    return LlavaNextVideoForConditionalGeneration.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def processor():
    from transformers import LlavaNextVideoProcessor

    return LlavaNextVideoProcessor.from_pretrained(FOLDER)


@shipped
def test_stock_transformers_answer(model, processor) -> None:
    """Nothing of ours between the folder and the answer: generate() says the word and stops."""
    clip = draw_clip("validation", 0)
    asked = questions(clip)[:: len(questions(clip)) // 4][:4]
    text = [PROMPT.format(question=q.text) for q in asked]
    inputs = processor(text=text, videos=[clip.render()] * len(text), return_tensors="pt", padding=True)
    assert (inputs["input_ids"] == model.config.video_token_id).sum(1).tolist() == [640] * len(text)
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sum(word.strip() == q.answer for word, q in zip(said, asked, strict=True)) >= 3


@shipped
def test_pixels_are_those_of_open_clip(processor) -> None:
    """Two libraries prepare the same frame alike, or the tower sees what it was not trained on."""
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{FOLDER / 'clip'}")
    frames = draw_clip("validation", 2).render()[:5]
    theirs = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    ours = processor.video_processor(frames, return_tensors="pt")["pixel_values_videos"][0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@shipped
@torch.no_grad()
def test_the_tower_is_the_shipped_clip(model) -> None:
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{FOLDER / 'clip'}")
    pixels = torch.rand(2, 3, 64, 64)
    pooled = model.model.vision_tower(pixels).pooler_output
    torch.testing.assert_close(pooled @ clip.visual.proj, clip.eval().encode_image(pixels), atol=1e-5, rtol=1e-5)


@shipped
@torch.no_grad()
def test_questions_side_by_side_are_as_if_asked_alone(model, processor) -> None:
    """The recipe asks many questions in one pass; each must have the logits of the stock model asked only that."""
    clip = draw_clip("validation", 3, Shape(frames=12, scenes=(2, 2)))
    frames, asked = clip.render(), questions(clip)[:5]
    layout = Layout()
    batch = layout.batch([watched(model, frames, asked)], [[Asked(q.kind, q.text, q.answer) for q in asked]])
    together = model.lm_head(layout.hidden(model, batch)[-1][batch.kinds >= 0])
    for question, logits in zip(asked, together, strict=True):
        inputs = processor(text=PROMPT.format(question=question.text), videos=[frames], return_tensors="pt")
        torch.testing.assert_close(model(**inputs).logits[0, -1], logits, atol=2e-2, rtol=1e-2)


def watched(model, frames, asked):
    return seen(model, frames, [Asked(q.kind, q.text, q.answer) for q in asked])


@shipped
def test_card_belongs_to_the_weights() -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    for key, file in (("sha256", "model.safetensors"), ("clip_sha256", "clip/open_clip_model.safetensors")):
        assert card[key] == hashlib.sha256((FOLDER / file).read_bytes()).hexdigest()
    scores = card["scores"]
    assert set(CHOICES) < set(scores["rendered"])
    assert scores["rendered"]["all"]["score"] >= LEAST
    assert scores["blind model"]["all"]["score"] <= card["chance"] + 0.06
    assert card["long_ago_share"] >= 0.5


@shipped
@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_shipped_model_sees_and_remembers(model) -> None:
    """On fresh clips: nine of ten right with everything remembered, near chance with nothing seen."""
    right = rendered_scores(model, "validation", 60)
    assert right["all"].score >= LEAST
    assert right["long ago"].score >= LEAST - 0.02
    assert rendered_scores(model, "validation", 40, blind=True)["all"].score <= chance() + 0.08
    assert table_scores("validation", 60)["all"].score <= chance() + 0.08


TINY = RecipeConfig(
    tower=TowerConfig(steps=4, whole_steps=2, scenes=1, combinations=6, numbers=2, pictures=2),
    language=LanguageConfig(layers=2, width=32, heads=2, kv_heads=1, feed_forward=32),
    alignment=AlignmentConfig(steps=3, squares=25),
    training=TrainingConfig(warmup_steps=2, aligned_squares=25),
    variants=1,
)
CURRICULUM = (
    Stage("short", 8, (1, 2), 3, ("colour", "number"), steps=2, until=2.0, dropped=0.5, step_tokens=300),
    Stage("images", 12, (2, 2), 3, vqa=(1, 2), vqa_share=0.5, step_tokens=300, steps=3, until=2.0),
)


@pytest.mark.slow
def test_resume_equals_uninterrupted(tmp_path: Path) -> None:
    """A state that forgot a moment, a counter or the stage would train other weights."""
    whole = train(replace(TINY, work=tmp_path / "whole"), CURRICULUM)
    for stop in (1, 3, None):  # within the first stage, within the second, to the end
        parts = train(replace(TINY, work=tmp_path / "parts", stop_after_steps=stop), CURRICULUM)
    assert whole.progress.finished
    assert parts.progress.finished
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, parts.parameters[name]), name


@pytest.mark.slow
def test_the_tower_settles_and_resumes(tmp_path: Path) -> None:
    """After `whole_steps` the layers that the language model reads stay; a killed tower goes on unchanged."""
    whole = TowerTrainer(TINY.tower, tmp_path / "clip")
    states = []
    for _ in range(TINY.tower.steps):
        whole.step()
        states.append({name: tensor.clone() for name, tensor in whole.model.state_dict().items()})
    changed = {name for name in states[1] if not torch.equal(states[1][name], states[-1][name])}
    read = ("visual.conv1", "visual.ln_pre", "visual.positional", "visual.transformer.resblocks.1.")
    fixed = {name for name in states[1] if name.startswith(read)}
    assert fixed
    assert not changed & fixed
    assert any(not torch.equal(states[0][name], states[1][name]) for name in fixed)  # before, they learnt
    assert {"visual.transformer.resblocks.2.mlp.c_fc.weight", "visual.proj", "text_projection"} <= changed
    for stop in (1, 2, 3):  # before, at and after the change
        first, second = TowerTrainer(TINY.tower, tmp_path / "clip"), TowerTrainer(TINY.tower, tmp_path / "clip")
        for _ in range(stop):
            first.step()
        first.save(tmp_path / "state.safetensors")
        second.restore(tmp_path / "state.safetensors")
        while second.progress < TINY.tower.steps:
            second.step()
        assert all(torch.equal(states[-1][name], tensor) for name, tensor in second.model.state_dict().items()), stop


def test_processor_and_words(tmp_path: Path) -> None:
    """Every question and answer of the tasks is made of known words, and the model's own template gives its prompt."""
    folder_for(tmp_path)
    processor = make_processor(8)
    unknown = processor.tokenizer.unk_token_id
    for index in range(20):
        for question in questions(draw_clip("train", index)):
            assert unknown not in processor.tokenizer(f"{question.text} {question.answer}").input_ids
            assert len(processor.tokenizer(question.answer, add_special_tokens=False).input_ids) == 1
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what shape came first?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    assert text == PROMPT.format(question="what shape came first?")


def test_a_fresh_model_is_a_function_of_its_seed(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder_for(tmp_path)
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    first, again, other = (make_video_model(TINY.language, tmp_path, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


@shipped
def test_answers_are_words(model) -> None:
    clip = draw_clip("validation", 5, Shape(frames=12, scenes=(2, 2)))
    asked = questions(clip)[:4]
    given = answers(model, Layout(), watched(model, clip.render(), asked))
    assert np.mean([word == q.answer for word, q in zip(given, asked, strict=True)]) >= 0.5
