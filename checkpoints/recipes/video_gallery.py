"""Frames seen through the frozen tower once, and training clips put together from them.

Drawing a clip and running the tower over it costs more than a step of the small language model. Scenes look the same
whatever clip they stand in, so a gallery of drawn scenes is encoded once, and every step composes new clips of them:
the order, the lengths, the gaps and the questions are new each time. Clips that are measured are drawn whole.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from checkpoints.recipes.video_words import COPIES
from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.drawing import COLOURS, SHAPES
from evaluations.tasks.video.questions import questions
from evaluations.tasks.video.rendered import BOARD, DIRECTIONS, MOST_COPIES, Clip, Scene, Shape, draw_clip

TOKENS_PER_FRAME = BOARD * BOARD
"""One a square of the board."""

Features = Float[Tensor, "tokens patches_width"]
"""What the tower sees of each square: its four patches, laid out as the pooling's convolution reads them."""


@dataclass(frozen=True)
class Asked:
    """A question with what a training step needs of it."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class TrainingClip:
    """A clip through the tower, square by square; where squares are left out, the others keep their places."""

    features: Features
    """What the tower sees, before pooling."""
    places: Int64[np.ndarray, " tokens"]
    """Each square's place among all of the clip."""
    length: int
    """Frames of the whole clip."""
    questions: list[Asked]
    earlier: tuple[str | None, ...] = ()
    """For each square, the shape that came before the one it shows, for learning; None where there is none."""


@torch.no_grad()
def encode(
    model: nn.Module, frames: UInt8[np.ndarray, "frames 64 64 3"], batch: int = 256
) -> Float[Tensor, "frames squares patches_width"]:
    """The tower's features of `frames`, as the video model reads them, before its pooling."""
    parts, across = [], 2 * BOARD
    for start in range(0, len(frames), batch):
        pixels = torch.from_numpy(frames[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        patches = states[model.config.vision_feature_layer][:, 1:].transpose(1, 2).unflatten(2, (across, across))
        parts.append(functional.unfold(patches, 2, stride=2).transpose(1, 2).half())
    return torch.cat(parts)


class Gallery:
    """Encoded scenes by what they show, and encoded images of easy-vqa."""

    def __init__(self, model: nn.Module, seed: int, variants: int, work: Path) -> None:
        """Draws and encodes `variants` scenes per shape, colour and length, or reads them from `work`."""
        rng = np.random.default_rng([seed, 0x6A11])
        self.scenes: dict[tuple[str | None, str | None, int], list[int]] = defaultdict(list)
        self.specs = self._specs(rng, variants)
        self.starts = np.cumsum([0, *(scene.frames for scene in self.specs)])
        for i, scene in enumerate(self.specs):
            if scene.copies > MOST_COPIES:  # for recognition only
                continue
            self.scenes[_key(scene)].append(i)
        # Named after what it was made from, so that another tower or other scenes are never read for these.
        tower = b"".join(p.detach().numpy().tobytes() for p in model.model.vision_tower.parameters())
        self.digest = hashlib.sha256(tower + repr(self.specs).encode()).hexdigest()[:16]
        path = work / f"gallery-{self.digest}.safetensors"
        if path.exists():
            stored = load_file(path)
            self.frames, self.images = stored["frames"], stored["images"]
            return
        parts = []
        for start in range(0, len(self.specs), 200):
            parts.append(encode(model, np.concatenate([s.render() for s in self.specs[start : start + 200]])))
        self.frames = torch.cat(parts)
        self.images = encode(model, np.stack([image.pixels for image in easy_vqa.images("train")]))
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        save_file({"frames": self.frames, "images": self.images}, temporary)
        os.replace(temporary, path)

    @staticmethod
    def _specs(rng: np.random.Generator, variants: int) -> list[Scene]:
        specs = []
        for shape in SHAPES:
            for colour in COLOURS:
                for length in (3, 4, 5):
                    for variant in range(variants):
                        copies, way = int(rng.integers(1, COPIES + 1)), DIRECTIONS[rng.integers(4)]
                        if variant == 0:  # so that clips find one of each
                            copies = min(copies, MOST_COPIES)
                        specs.append(Scene(length, (int(rng.integers(2**31)),), shape, colour, copies, way))
        for _ in range(variants * 32):  # a number flashes in one frame only, so it has to be known the better
            specs += [Scene(1, (int(rng.integers(2**31)),), number=number) for number in range(10)]
        specs += [Scene(1, (int(rng.integers(2**31)),)) for _ in range(variants * 64)]
        return specs

    def clip(self, rng: np.random.Generator, shape: Shape, dropped: float = 0.0) -> TrainingClip:
        """A new clip out of the gallery.

        Args:
            rng: decides everything.
            shape: length and composition; scenes of 3 to 5 frames.
            dropped: share of the squares that are left out to save time; of those that show shapes a third as many.
        """
        plan = draw_clip("train", int(rng.integers(2**40)), shape)
        scenes, features, places, earlier = [], [], [], []
        last = None
        for scene, start in zip(plan.scenes, plan.starts, strict=True):
            pool = self.scenes[_key(scene)]
            if scene.shape is None and scene.number is None:
                rows = [self.starts[pool[rng.integers(len(pool))]] for _ in range(scene.frames)]
                shown = scene
            else:
                chosen = pool[rng.integers(len(pool))]
                shown, rows = self.specs[chosen], self.starts[chosen] + np.arange(scene.frames)
            scenes.append(shown)
            board = shown.occupied().reshape(scene.frames, TOKENS_PER_FRAME)
            least = dropped / 3 if shown.shape else 0.0  # a number is seen once
            kept = rng.random(board.shape) >= np.where(board, least, dropped)
            frame, square = np.nonzero(kept)
            features.append(self.frames[torch.as_tensor(rows)[frame], torch.from_numpy(square)])
            places.append((start + frame) * TOKENS_PER_FRAME + square)
            earlier += [last if shown.shape and board[i, j] else None for i, j in zip(frame, square, strict=True)]
            last = shown.shape or last
        asked = [Asked(q.kind, q.text, q.answer) for q in questions(Clip(tuple(scenes)))]
        return TrainingClip(torch.cat(features), np.concatenate(places), plan.length, asked, tuple(earlier))

    def vqa(self, rng: np.random.Generator, count: int, dropped: float = 0.0) -> TrainingClip:
        """A clip of `count` training images of easy-vqa, of whose frames and squares some are left out."""
        clip = easy_vqa.vqa_clip("train", int(rng.integers(len(self.images))), count)
        kept = rng.random((clip.length, TOKENS_PER_FRAME)) >= dropped * (count > 1)
        frame, square = np.nonzero(kept)
        rows = torch.tensor([image.index for image in clip.images for _ in range(clip.frames_per_image)])
        asked = [Asked("easy-vqa", q.text, q.answer) for q in clip.questions()]
        features = self.images[rows[torch.from_numpy(frame)], torch.from_numpy(square)]
        none = (None,) * len(square)
        return TrainingClip(features, frame * TOKENS_PER_FRAME + square, clip.length, asked, none)


def _key(scene: Scene) -> tuple[str | None, str | None, int]:
    if scene.shape is None and scene.number is None:
        return None, None, 1
    return str(scene.number) if scene.number is not None else scene.shape, scene.colour, scene.frames
