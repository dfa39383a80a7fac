"""Squares are made to look like words, before any question: pooling, projector and word embeddings learn together.

A square's words (its shape, colour, number of copies, ...) have to be those whose embeddings its token fits best. That
is what captions do for LLaVA's projector, without a language model in between: a step costs a fiftieth of one, and
recognition needs many more pictures than recall needs questions.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from checkpoints.recipes.video_batches import seen
from checkpoints.recipes.video_gallery import Gallery
from checkpoints.recipes.video_vocabulary import words
from checkpoints.recipes.video_words import CATEGORIES, IGNORED, fits, naming_loss
from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.drawing import COLOURS, NUMBERS, SHAPES
from evaluations.tasks.video.questions import plural

NAMED = (*CATEGORIES, tuple(plural(shape) for shape in SHAPES), ("nothing", *SHAPES, *COLOURS, *NUMBERS))
"""Questions name shapes in the plural too; where nothing is seen, no word may fit better than that one."""


@dataclass(frozen=True)
class AlignmentConfig:
    """How squares and words are aligned."""

    steps: int = 600
    """Optimiser steps."""
    squares: int = 384
    """Squares of a step."""
    learning_rate: float = 3e-3
    """Peak; falls to nothing."""
    weight_decay: float = 0.05
    """AdamW's."""


EMPTY = (*(IGNORED,) * (len(NAMED) - 1), 0)
"""What fits a square that shows nothing."""


class Squares:
    """All squares of a gallery with the words that fit them."""

    def __init__(self, gallery: Gallery) -> None:
        places, known, frame = [], [], 0
        for scene in gallery.specs:
            board = torch.from_numpy(scene.occupied()).flatten(1)
            named = fits(scene)
            for shows, row in ((board, (*named, named[0], IGNORED)), (~board, EMPTY)):
                places.append(shows.nonzero() + torch.tensor([frame, 0]))
                known += [row] * len(places[-1])
            frame += scene.frames
        squares = gallery.frames.shape[1]
        for image in easy_vqa.images("train"):
            places.append(torch.stack([torch.full((squares,), frame), torch.arange(squares)], 1))
            known += [(*fits(image), IGNORED, IGNORED)] * squares
            frame += 1
        self.features = torch.cat([gallery.frames, gallery.images])
        self.places, self.known = torch.cat(places), torch.tensor(known)
        # In equal parts: of those that show a number, say, there are few.
        drawn = (self.known[:, [0, 3, -1]] >= 0).T
        pictures = (self.known[:, 4:6] >= 0).any(1)
        self.pools = [shows.nonzero()[:, 0] for shows in (*drawn, pictures)]
        ids = {word: index for index, word in enumerate(words())}
        self.ids = [torch.tensor([ids[word] for word in category]) for category in NAMED]

    def loss(
        self, model: nn.Module, count: int, generator: torch.Generator, growth: float = 1.0
    ) -> tuple[Tensor, list[float]]:
        """The loss on `count` squares, drawn, and by category how often the right word fits best.

        Fits are divided by `growth`.
        """
        parts = [
            pool[torch.randint(len(pool), (count // len(self.pools),), generator=generator)] for pool in self.pools
        ]
        chosen = torch.cat(parts)
        tokens = seen(model, self.features[self.places[chosen, 0], self.places[chosen, 1]].float())
        embedded = model.model.language_model.embed_tokens.weight
        return naming_loss([tokens @ embedded[ids].T / growth for ids in self.ids], self.known[chosen])


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
    squares, generator = Squares(gallery), torch.Generator().manual_seed(seed)
    _standardise(inner.vision_resampler.pool, squares)
    optimizer = torch.optim.AdamW(named.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for step in range(config.steps):
        loss, right = squares.loss(model, config.squares, generator)
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


@torch.no_grad()
def _standardise(pool: nn.Conv2d, squares: Squares) -> None:
    """Lets the pooling begin with features of mean 0 and size 1, whatever the tower's are."""
    sample = squares.features[::16].flatten(0, 1).float()
    mean, deviation = sample.mean(0), sample.std(0) + 1e-3
    pool.weight.div_(deviation.view(1, *pool.weight.shape[1:]))
    pool.bias.copy_(-pool.weight.flatten(1) @ mean)
