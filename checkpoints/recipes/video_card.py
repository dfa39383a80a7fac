"""Writes the folder of the trained video model: weights, processor, its CLIP for open_clip, card.json and README.md."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from checkpoints.recipes.video_language import make_processor
from checkpoints.recipes.video_measure import (
    LONG_AGO,
    Measured,
    chance,
    long_ago_share,
    measured,
    rendered_scores,
    table_scores,
    vqa_scores,
)
from checkpoints.recipes.video_tower import caption
from evaluations.tasks.video.easy_vqa import ORDINALS
from evaluations.tasks.video.questions import CHOICES
from evaluations.tasks.video.rendered import FRAMES, draw_clip
from namm.files import file_sha256, write_atomically

VQA_IMAGES = 8
VQA_CLIPS = 400
"""Test images that are asked about among others; alone all are."""


def export(model: nn.Module, clip_folder: Path, folder: Path) -> None:
    """Writes model, processor and the CLIP its tower comes from; the weights arrive last and whole."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    model.save_pretrained(fresh)
    make_processor(model.config.vision_config.patch_size).save_pretrained(fresh)
    shutil.copytree(clip_folder, folder / "clip", dirs_exist_ok=True)
    for file in (folder / "clip").iterdir():
        file.chmod(0o644)
    for file in sorted(fresh.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        file.chmod(0o644)
        os.replace(file, folder / file.name)
    shutil.rmtree(fresh)


@torch.no_grad()
def retrieval(clip_folder: Path, clips: int) -> Measured:
    """How often the exported CLIP finds the caption of a test frame among those of all scenes of these clips."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    scenes = [scene for index in range(clips) for scene in draw_clip("test", index).scenes]
    named = sorted({caption(scene) for scene in scenes})
    texts = model.eval().encode_text(tokenizer(named), normalize=True)
    rng, right = np.random.default_rng(0), []
    for scene in scenes:
        frame = scene.render()[rng.integers(scene.frames)]
        image = model.encode_image(transform(Image.fromarray(frame))[None], normalize=True)
        right.append(float(named[int((image @ texts.T).argmax())] == caption(scene)))
    return measured(right)


def write_card(model: nn.Module, folder: Path, training: dict[str, Any], clips: int) -> dict[str, Any]:
    """Measures the model on test clips and writes card.json and README.md beside its weights.

    Args:
        model: the model whose weights lie in `folder`.
        folder: where `export` wrote.
        training: how it was trained: seeds, steps, seconds, configurations.
        clips: rendered test clips.
    """
    begun = time.monotonic()
    scores = {
        "rendered": rendered_scores(model, "test", clips),
        "blind model": rendered_scores(model, "test", clips, blind=True),
        "blind table": table_scores("test", clips),
        "easy-vqa, one image": vqa_scores(model, 1),
        f"easy-vqa, {VQA_IMAGES} images": vqa_scores(model, VQA_IMAGES, VQA_CLIPS),
        "captions": {"all": retrieval(folder / "clip", min(clips, 100))},
    }
    card = {
        "name": folder.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": file_sha256(folder / "model.safetensors"),
        "clip_sha256": file_sha256(folder / "clip" / "open_clip_model.safetensors"),
        "command": "python checkpoints/recipes/video_model.py",
        "training": training,
        "frames": FRAMES,
        "tokens_per_frame": model.config.video_seq_length,
        "long_ago_frames": LONG_AGO,
        "long_ago_share": long_ago_share("test", clips),
        "chance": chance(),
        "scores": {name: {part: asdict(score) for part, score in group.items()} for name, group in scores.items()},
        "measuring_seconds": round(time.monotonic() - begun, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_atomically(folder / "card.json", json.dumps(card, indent=2, default=str) + "\n")
    write_atomically(folder / "README.md", readme(card, model))
    return card


def _shown(score: dict[str, float]) -> str:
    return f"{100 * score['score']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def readme(card: dict[str, Any], model: nn.Module) -> str:
    """The card in words."""
    text, vision = model.config.text_config, model.config.vision_config
    tokens = card["frames"] * card["tokens_per_frame"]
    return f"""---
license: apache-2.0
library_name: transformers
---
# {card["name"]}

A small video-language model for measuring what a KV cache may forget: it watches a clip of moving shapes and answers
questions in words. LLaVA-NeXT-Video's architecture, {card["parameters"]:,} parameters: a CLIP tower
({vision.num_hidden_layers} layers, width {vision.hidden_size}, {vision.image_size} px, patches of {vision.patch_size}),
projector, and a Llama ({text.num_hidden_layers} layers, width {text.hidden_size},
{text.num_attention_heads} query heads, {text.num_key_value_heads} KV heads, {text.vocab_size} words). A frame is
{card["tokens_per_frame"]} tokens, the usual clip of {card["frames"]} frames {tokens}.
It loads with `LlavaNextVideoForConditionalGeneration` and `LlavaNextVideoProcessor`; it is no general model and knows
no other words. `clip/` is the CLIP its tower comes from, for open_clip:
`open_clip.create_model_and_transforms("local-dir:.../clip")`.

{_scores(card)}
{_made(card)}
The same numbers, machine-readable: `card.json`.
"""


def _scores(card: dict[str, Any]) -> str:
    scores = card["scores"]
    rendered, one, many = (
        scores[name] for name in ("rendered", "easy-vqa, one image", f"easy-vqa, {VQA_IMAGES} images")
    )
    after, place = VQA_IMAGES * 4 - 4, f"one of {VQA_IMAGES} images of 4 frames each, named by its place"
    return f"""## Scores with the full cache

Percent of questions answered rightly (first word, greedy), 95% Wilson intervals. Clips of the test split
(`evaluations.tasks.video.rendered.draw_clip("test", index)`), one question of each kind a clip; the interval's unit is
the clip.

{_table(card)}

{100 * card["long_ago_share"]:.0f}% of these questions come at least {card["long_ago_frames"]} frames
({card["long_ago_frames"] * card["tokens_per_frame"]} tokens) after the last frame that shows their answer. Those:
{_shown(rendered["long ago"])}; the others: {_shown(rendered["recent"])}. "Blind model" is this model on clips of empty
frames; "blind table" answers each question as most training clips do; one in so many choices gives
{100 * card["chance"]:.1f}.

The CLIP finds the caption of a test frame among all captions of its clips in {_shown(scores["captions"]["all"])}.

easy-vqa, the set's own test split (1,000 images, {one["every question"]["count"]:,} questions), of which only the
training split was learnt:

| | percent right |
|---|---|
| one image, one frame, all questions | {_shown(one["every question"])} |
| {place} ({many["all"]["count"]} images) | {_shown(many["all"])} |
| ... the first image (asked {after} frames later) | {_shown(many[ORDINALS[0]])} |
| ... the last image | {_shown(many[ORDINALS[VQA_IMAGES - 1]])} |

Published with one image: 99.5 (the set's makers, a convolutional network trained on twice as many images of the same
kind, README of github.com/vzhou842/easy-VQA-keras), 87.6 on the test split (github.com/Kshitij-Ambilduke/VQA).
"""


def _made(card: dict[str, Any]) -> str:
    training = card["training"]
    stages = ", ".join(f"{name} {steps}" for name, steps in training["stage_steps"].items())
    tower, dropped = training["tower"], training["abandoned"] or "none"
    return f"""## How it was made

    {card["command"]}

- Data: frames and clips drawn by `evaluations/tasks/video/`, training split, and the training split of easy-vqa (MIT).
- Tower: open_clip, {tower["steps"]} steps of its contrastive loss on frames and captions, and of a loss that asks each
  square of a frame to name what it shows; after {tower["whole_steps"]} steps the layers that the language model reads
  were fixed (open_clip's `lock`), the last layer and the text tower went on. It is not trained further.
- Alignment: {training["alignment"]["steps"]} steps in which pooling, projector and word embeddings learn that a
  square's token is like the words that name it.
- Start: the Llama's first heads begin near the circuit that answers rest on (`video_start.py`: a question's word looks
  at squares like it and copies what they show), as in mimetic initialisation; all weights are then trained.
- Pooling, projector and Llama: seed {training["seed"]} (stuck and dropped before it: {dropped}),
  {training["step"]:,} steps, {training["questions"]:,} questions, {training["seconds"]:,.0f} s wall time on
  {training["threads"]} thread of a shared machine, float32. Steps by stage: {stages}.
- Versions: torch {card["versions"]["torch"]}. sha256 of model.safetensors: `{card["sha256"]}`.
{"".join(f"- {note}{chr(10)}" for note in training.get("notes", []))}"""


def _table(card: dict[str, Any]) -> str:
    scores = card["scores"]
    lines = ["| question | this model | blind model | blind table | clips |", "|---|---|---|---|---|"]
    for name in (*CHOICES, "all"):
        columns = (scores[group][name] for group in ("rendered", "blind model", "blind table"))
        shown = " | ".join(_shown(score) for score in columns)
        lines.append(f"| {name} | {shown} | {scores['rendered'][name]['count']} |")
    return "\n".join(lines)
