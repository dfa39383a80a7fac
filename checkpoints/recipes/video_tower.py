"""Trains a small CLIP with open_clip on rendered frames and their captions: the tower of the video model.

open_clip brings the model (`ARCHITECTURE`, a configuration of ours), its loss and its transforms. Half of the texts are
whole captions ("three red circles"), the rest name a part of it or ask for it, so that a question finds its frames. A
batch holds no whole caption twice. Frames come from training clips and from the training images of easy-vqa.

The contrastive loss asks the class token alone. What a video model reads are the squares of the picture, so a second
loss asks each square that shows something to name it (`video_words.py`), through a head that is thrown away.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from checkpoints.recipes.video_vocabulary import END, PAD, save_clip_tokenizer, words
from checkpoints.recipes.video_words import COPIES, SquaresHead, fits
from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.drawing import COLOURS, NUMBERS, SHAPES, SIZE
from evaluations.tasks.video.questions import plural
from evaluations.tasks.video.rendered import BOARD, DIRECTIONS, Scene

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": SIZE,
        "patch_size": 8,
        "layers": 3,
        "width": 64,
        "head_width": 16,
        "mlp_ratio": 4.0,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": len(words()),
        "hf_tokenizer_name": "words",
        "width": 64,
        "heads": 4,
        "layers": 2,
        "mlp_ratio": 2.0,
        "pool_type": "eos",
        "pad_id": words().index(PAD),
        "eos_id": words().index(END),
    },
}
"""open_clip's `model_cfg`."""

PREPROCESSING = {"size": SIZE, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
"""open_clip's `preprocess_cfg`."""


@dataclass(frozen=True)
class TowerConfig:
    """What decides the tower's weights."""

    seed: int = 0
    """Of the weights, the frames and the batches."""
    steps: int = 380
    """Optimiser steps."""
    whole_steps: int = 300
    """After so many the layers whose output the language model reads stay as they are; the rest goes on learning."""
    scenes: int = 12
    """Scenes drawn for each shape, colour and number of copies; three frames each."""
    combinations: int = 96
    """Captions of a batch, all different."""
    numbers: int = 16
    """Frames that flash a number added to a batch, for their squares only."""
    pictures: int = 16
    """Likewise images of easy-vqa."""
    squares_weight: float = 1.0
    """Weight of the loss on the squares."""
    learning_rate: float = 3e-3
    """Peak; falls along the begin of a cosine, then, from `whole_steps` on, straight to nothing."""
    cosine_steps: int = 1000
    """Steps that the whole cosine would take."""
    weight_decay: float = 0.05
    """AdamW's, on matrices."""


@dataclass(frozen=True)
class Pictured:
    """A frame, the texts that fit it, the whole caption first, and what its squares show."""

    image: np.ndarray
    texts: tuple[str, ...]
    fits: tuple[int, ...]
    """See `video_words.fits`."""
    squares: np.ndarray
    """Which squares show it."""


def caption(scene: Scene) -> str:
    """The scene's frames in words."""
    if scene.number is not None:
        return f"the number {NUMBERS[scene.number]}"
    if scene.shape is None:
        return "nothing"
    shapes = scene.shape if scene.copies == 1 else plural(scene.shape)
    return f"{NUMBERS[scene.copies]} {scene.colour} {shapes}"


def _texts(scene: Scene) -> tuple[str, ...]:
    if scene.number is not None:
        return caption(scene), "a number", "what number flashed?"
    if scene.shape is None:
        return (caption(scene),)
    shapes, coloured = plural(scene.shape), f"{scene.colour} shapes"
    asked = (f"what color were the {shapes}?", f"what were the {coloured}?")
    several = tuple(f"how many {things} were there?" for things in (shapes, coloured))
    return (
        caption(scene),
        f"the {scene.colour} {shapes}",
        f"the {shapes}",
        f"the {coloured}",
        *asked,
        *several,
    )


def _pictured(scene: Scene) -> list[Pictured]:
    shown = zip(scene.render(), scene.occupied(), strict=True)
    return [Pictured(frame, _texts(scene), fits(scene), squares) for frame, squares in shown]


def frames_and_texts(config: TowerConfig) -> tuple[list[list[Pictured]], list[Pictured], list[Pictured]]:
    """By whole caption, the frames that fit it; then those that flash a number, and those of easy-vqa."""
    rng = np.random.default_rng([config.seed, 0xC11B])
    groups: list[list[Pictured]] = []
    for shape in SHAPES:
        for colour in COLOURS:
            for copies in range(1, COPIES + 1):
                seeds = rng.integers(2**31, size=config.scenes)
                scenes = [
                    Scene(3, (int(seed),), shape, colour, copies, DIRECTIONS[seed % len(DIRECTIONS)]) for seed in seeds
                ]
                groups.append([pictured for scene in scenes for pictured in _pictured(scene)])
    numbers: list[Pictured] = []
    for number in (*range(10), None):
        scenes = [Scene(1, (int(seed),), number=number) for seed in rng.integers(2**31, size=config.scenes * 16)]
        groups.append([pictured for scene in scenes for pictured in _pictured(scene)])
        numbers += groups[-1] if number is not None else []
    described: dict[str, list[Pictured]] = {}
    for image in easy_vqa.images("train"):
        if image.colour is None or image.shape is None:  # not asked about, so not known
            continue
        text = f"a {image.colour} {image.shape}"
        parts = (text, f"what color is the {image.shape}?", f"what is the {image.colour} shape?")
        everywhere = np.ones((BOARD, BOARD), dtype=bool)
        described.setdefault(text, []).append(Pictured(image.pixels, parts, fits(image), everywhere))
    images = [pictured for group in described.values() for pictured in group]
    return groups + list(described.values()), numbers, images


def folder_for(folder: Path) -> None:
    """Writes configuration and tokenizer, so that open_clip finds the model under `local-dir:`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": ARCHITECTURE, "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_clip_tokenizer(folder)


def train_tower(config: TowerConfig, folder: Path, work: Path) -> Path:
    """Trains the tower, or goes on with it, and leaves it in `folder` for open_clip's `local-dir:`.

    Returns:
        The file of its weights.
    """
    weights = folder / "open_clip_model.safetensors"
    if weights.exists():
        return weights
    trainer = TowerTrainer(config, folder)
    state = work / "tower.safetensors"
    if state.exists():
        trainer.restore(state)
    begun = time.monotonic()
    while trainer.progress < config.steps:
        loss, hits, right = trainer.step()
        if trainer.progress % 20 == 1:  # a batch of whole captions
            spent, squares = time.monotonic() - begun, " ".join(f"{share:.2f}" for share in right)
            print(
                f"tower step {trainer.progress}: loss {loss:.3f} found {hits:.3f} squares {squares} {spent:.0f} s",
                flush=True,
            )
        if trainer.progress % 50 == 0:
            trainer.save(state)
    _replace(weights, {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()})
    return weights


def _replace(path: Path, tensors: dict[str, Tensor], step: int = 0) -> None:
    from safetensors.torch import save_file

    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={"step": str(step)})
    os.replace(temporary, path)


class TowerTrainer:
    """A CLIP in training."""

    def __init__(self, config: TowerConfig, folder: Path) -> None:
        """Makes the model, a function of the seed, whose configuration is written to `folder`."""
        import open_clip

        folder_for(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.config, self.model = config, model.train()
        self.loss = open_clip.ClipLoss()
        self.groups, self.numbers, self.images = frames_and_texts(config)
        print(f"{sum(map(len, self.groups)):,} frames of {len(self.groups)} captions", flush=True)
        self.head, self.squares = SquaresHead(ARCHITECTURE["vision_cfg"]["width"], config.seed), None
        # The layer before last, which the video model reads.
        self.model.visual.transformer.resblocks[-2].register_forward_hook(self._keep)
        self.progress = 0
        self.optimizer = self._optimizer()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.squares = output[:, 1:]

    def _named(self) -> dict[str, nn.Parameter]:
        parts = (("model", self.model), ("head", self.head))
        return {f"{part}.{name}": p for part, module in parts for name, p in module.named_parameters()}

    def _optimizer(self) -> torch.optim.Optimizer:
        learnt = [p for p in self._named().values() if p.requires_grad]
        matrices = [p for p in learnt if p.ndim > 1]
        rest = [p for p in learnt if p.ndim <= 1]
        decayed = {"params": matrices, "weight_decay": self.config.weight_decay}
        groups = [decayed, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=(0.9, 0.98))

    def _settle(self) -> None:
        """Fixes what the language model reads: all layers but the last."""
        self.model.visual.lock(unlocked_groups=2)
        self.head.requires_grad_(False)
        for parameter in self._named().values():
            parameter.grad = None  # or what is fixed would still count when gradients are clipped
        self.optimizer = self._optimizer()

    def save(self, path: Path) -> None:
        """Writes weights, moments and the step as one file, atomically."""
        tensors = {f"model.{name}": tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        tensors |= {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        for name, parameter in self._named().items():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}.{name}"] = value
        _replace(path, tensors, self.progress)

    def restore(self, path: Path) -> None:
        """Takes over what `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            self.progress = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for part, module in (("model.", self.model), ("head.", self.head)):
            module.load_state_dict({n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)})
        if self.progress > self.config.whole_steps:
            self._settle()
        for name, parameter in self._named().items():
            if f"step.{name}" in tensors:
                moments = {m: tensors[f"{m}.{name}"] for m in ("step", "exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = moments

    def step(self) -> tuple[float, float, list[float]]:
        """One optimiser step; returns the loss, how often a frame finds its text and what squares name rightly."""
        step, self.progress = self.progress, self.progress + 1
        if step == self.config.whole_steps:
            self._settle()
        rng = np.random.default_rng([self.config.seed, step])
        chosen = rng.permutation(len(self.groups))[: self.config.combinations]
        pictured = [self.groups[i][rng.integers(len(self.groups[i]))] for i in chosen]
        # One batch in two has whole captions only: they alone tell every pair apart.
        whole = step % 2 == 0
        texts = [p.texts[0 if whole or len(p.texts) == 1 else rng.integers(1, len(p.texts))] for p in pictured]
        if step < self.config.whole_steps:
            for pool, count in ((self.numbers, self.config.numbers), (self.images, self.config.pictures)):
                pictured += [pool[i] for i in rng.integers(len(pool), size=count)]
        image = self.model.encode_image(
            torch.stack([self.transform(Image.fromarray(p.image)) for p in pictured]), normalize=True
        )[: len(texts)]
        text = self.model.encode_text(self.tokenizer(texts), normalize=True)
        loss = self.loss(image, text, self.model.logit_scale.exp())
        squares, right = self.head.loss(
            self.squares,
            torch.tensor([p.fits for p in pictured]),
            torch.from_numpy(np.stack([p.squares for p in pictured])),
        )
        self._update(loss + self.config.squares_weight * squares, step)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
            found = (image @ text.T).argmax(1)
            same = [texts[i] == texts[j] for i, j in enumerate(found.tolist())]
        return loss.item(), float(np.mean(same)), right

    def _update(self, loss: Tensor, step: int) -> None:
        config = self.config
        factor = min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / config.cosine_steps))
        if step >= config.whole_steps:
            factor *= (config.steps - step) / (config.steps - config.whole_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in self._named().values() if p.requires_grad], 1.0)
        self.optimizer.step()
