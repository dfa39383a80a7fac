"""Frames are made to look like words, before any question: pooling, projector and word embeddings learn together.

A frame's words (its shape, colour, number of copies, ...) have to be those whose embeddings its tokens fit best, summed
over its tokens. That is what captions do for LLaVA's projector, without a language model in between: a step costs a
fiftieth of one, and recognition needs many more frames than recall needs questions.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from checkpoints.recipes.video_gallery import Gallery
from checkpoints.recipes.video_tower import COPIES
from checkpoints.recipes.video_vocabulary import words
from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.drawing import COLOURS, NUMBERS, SHAPES

VQA_SHAPES = ("circle", "rectangle", "triangle")
VQA_COLOURS = ("red", "green", "blue", "yellow", "brown", "teal", "black", "gray")
CATEGORIES = (tuple(SHAPES), tuple(COLOURS), NUMBERS[1 : COPIES + 1], NUMBERS, VQA_SHAPES, VQA_COLOURS)
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


class Frames:
    """All frames of a gallery with the words that fit them."""

    def __init__(self, gallery: Gallery) -> None:
        self.frames, self.known = torch.cat([gallery.frames, gallery.images]), labels(gallery)
        self.pool = (self.known >= 0).any(1).nonzero()[:, 0]

    def loss(self, model: nn.Module, count: int, generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """The loss on `count` frames, drawn, and by category how often the right word fits best."""
        chosen = self.pool[torch.randint(len(self.pool), (count,), generator=generator)]
        losses, right = [], []
        for scores, wanted in zip(fit(model, self.frames[chosen]), self.known[chosen].T, strict=True):
            has = wanted >= 0
            losses.append(functional.cross_entropy(scores[has], wanted[has], reduction="sum") / max(1, int(has.sum())))
            right.append((scores[has].argmax(1) == wanted[has]).float().mean().item())
        return torch.stack(losses).sum(), right


def align(model: nn.Module, gallery: Gallery, config: AlignmentConfig, seed: int, work: Path) -> None:
    """Trains pooling, projector and word embeddings of `model` in place, or takes them from `work`."""
    told = hashlib.sha256(repr((config, seed, gallery.digest)).encode()).hexdigest()[:16]
    path = work / f"aligned-{told}.safetensors"
    inner = model.model
    parts = {"pool": inner.vision_resampler, "projector": inner.multi_modal_projector}
    named = {f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters()}
    named["words"] = inner.language_model.embed_tokens.weight
    if path.exists():
        for name, stored in load_file(path).items():
            named[name].data.copy_(stored)
        return
    frames, generator = Frames(gallery), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(named.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for step in range(config.steps):
        loss, right = frames.loss(model, config.frames, generator)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 50) * (1 - step / config.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"alignment step {step + 1}: {' '.join(f'{share:.2f}' for share in right)}", flush=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({name: p.detach().contiguous() for name, p in named.items()}, temporary)
    os.replace(temporary, path)
