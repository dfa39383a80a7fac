"""Frames are made to look like words, before any question: pooling, projector and word embeddings learn together.

A frame's words (its shape, colour, number of copies, ...) have to be those whose embeddings its tokens fit best, summed
over its tokens. That is what captions do for LLaVA's projector, without a language model in between: a step costs a
fiftieth of one, and recognition needs many more frames than recall needs questions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from checkpoints.recipes.video_gallery import Gallery
from checkpoints.recipes.video_vocabulary import words
from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.drawing import COLOURS, NUMBERS, SHAPES
from evaluations.tasks.video.rendered import MOST_COPIES

VQA_SHAPES = ("circle", "rectangle", "triangle")
VQA_COLOURS = ("red", "green", "blue", "yellow", "brown", "teal", "black", "gray")
CATEGORIES = (tuple(SHAPES), tuple(COLOURS), NUMBERS[1 : MOST_COPIES + 1], NUMBERS, VQA_SHAPES, VQA_COLOURS)
"""Words among which one fits; each frame knows some of the categories."""

IGNORED = -100


@dataclass(frozen=True)
class AlignmentConfig:
    """How frames and words are aligned."""

    steps: int = 1200
    """Optimiser steps."""
    frames: int = 192
    """Frames of a step."""
    learning_rate: float = 3e-3
    """Peak; falls to nothing."""
    weight_decay: float = 0.05
    """AdamW's."""


def labels(gallery: Gallery) -> Int64[Tensor, "frames categories"]:
    """For each frame of the gallery, then each image of easy-vqa, which word of each category fits; -100 for none."""
    rows = []
    for scene in gallery.specs:
        row = [IGNORED] * len(CATEGORIES)
        if scene.shape is not None:
            row[:3] = list(SHAPES).index(scene.shape), list(COLOURS).index(scene.colour), scene.copies - 1
        elif scene.number is not None:
            row[3] = scene.number
        rows += [row] * scene.frames
    for image in easy_vqa.images("train"):
        shape = VQA_SHAPES.index(image.shape) if image.shape else IGNORED
        colour = VQA_COLOURS.index(image.colour) if image.colour else IGNORED
        rows.append([IGNORED] * 4 + [shape, colour])
    return torch.tensor(rows)


def fit(model: nn.Module, features: Float[Tensor, "frames patches width"]) -> list[Float[Tensor, "frames words"]]:
    """By category, how well each word fits each frame."""
    inner = model.model
    seen = inner.multi_modal_projector(inner.vision_resampler(features.float()))
    ids = {word: index for index, word in enumerate(words())}
    embedded = inner.language_model.embed_tokens.weight
    return [torch.logsumexp(seen @ embedded[[ids[w] for w in category]].T, dim=1) for category in CATEGORIES]


def align(model: nn.Module, gallery: Gallery, config: AlignmentConfig, seed: int, path: Path) -> None:
    """Trains pooling, projector and word embeddings of `model` in place, or takes them from `path`."""
    inner = model.model
    parts = {"pool": inner.vision_resampler, "projector": inner.multi_modal_projector}
    named = {f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters()}
    named["words"] = inner.language_model.embed_tokens.weight
    if path.exists():
        for name, stored in load_file(path).items():
            named[name].data.copy_(stored)
        return
    generator = torch.Generator().manual_seed(seed)
    known, frames = labels(gallery), torch.cat([gallery.frames, gallery.images])
    pool = (known >= 0).any(1).nonzero()[:, 0]
    optimizer = torch.optim.AdamW(named.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for step in range(config.steps):
        chosen = pool[torch.randint(len(pool), (config.frames,), generator=generator)]
        losses, right = [], []
        for scores, wanted in zip(fit(model, frames[chosen]), known[chosen].T, strict=True):
            has = wanted >= 0
            if has.any():
                losses.append(functional.cross_entropy(scores[has], wanted[has]))
                right.append(f"{(scores[has].argmax(1) == wanted[has]).float().mean().item():.2f}")
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 50) * (1 - step / config.steps)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"alignment step {step + 1}: {' '.join(right)}", flush=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({name: p.detach().contiguous() for name, p in named.items()}, temporary)
    os.replace(temporary, path)
