"""Frames seen through the frozen tower once, and training clips put together from them.

Drawing a clip and running the tower over it costs more than a step of the small language model. Scenes look the same
whatever clip they stand in, so a gallery of drawn scenes is encoded once, and every step composes new clips of them:
the order, the lengths, the gaps and the questions are new each time. Clips that are measured are drawn whole.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from checkpoints.recipes.video_tower import COPIES
from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.drawing import COLOURS, NUMBERS, SHAPES
from evaluations.tasks.video.questions import questions
from evaluations.tasks.video.rendered import DIRECTIONS, MOST_COPIES, Clip, Scene, Shape, draw_clip

TOKENS_PER_FRAME = 16

SMALLEST_VARIANCE = 0.05
"""Added to each direction's variance before whitening, as a share of the mean: directions of noise stay small."""

Features = Float[Tensor, "frames patches width"]


@dataclass(frozen=True)
class Asked:
    """A question with what a training step needs of it."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class TrainingClip:
    """A clip through the tower."""

    features: Features
    """What the tower sees, before pooling."""
    places: np.ndarray
    """The frame number of each row of `features`; frames may be left out, their numbers stay."""
    length: int
    """Frames of the whole clip."""
    questions: list[Asked]
    told: tuple[tuple[str, ...], ...] = ()
    """For each row of `features`, the words that describe the frame, for learning; none where nothing is known."""


def described(scene: Scene, frame: int) -> tuple[str, ...]:
    """The words that a frame of a scene has to bring to mind; the way only from its second frame on."""
    if scene.number is not None:
        return (NUMBERS[scene.number],)
    if scene.shape is None:
        return ()
    return (scene.shape, scene.colour, NUMBERS[scene.copies], *([scene.direction] if frame else []))


@torch.no_grad()
def encode(model: nn.Module, frames: UInt8[np.ndarray, "frames 64 64 3"], batch: int = 256) -> Features:
    """The tower's features of `frames`, as the video model reads them, before its pooling."""
    parts = []
    for start in range(0, len(frames), batch):
        pixels = torch.from_numpy(frames[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        parts.append(states[model.config.vision_feature_layer][:, 1:].half())
    return torch.cat(parts)


class Gallery:
    """Encoded scenes by what they show, and encoded images of easy-vqa."""

    def __init__(self, model: nn.Module, seed: int, variants: int, work: Path) -> None:
        """Draws and encodes `variants` scenes per shape, colour and length, or reads them from `work`."""
        rng = np.random.default_rng([seed, 0x6A11])
        self.scenes: dict[tuple[str | None, str | None, int], list[int]] = defaultdict(list)
        self.specs = list(self._specs(rng, variants))
        self.starts = np.cumsum([0, *(scene.frames for scene in self.specs)])
        for i, scene in enumerate(self.specs):
            if scene.copies > MOST_COPIES:  # for recognition only
                continue
            kind = str(scene.number) if scene.number is not None else scene.shape
            self.scenes[kind, scene.colour, scene.frames].append(i)
        # Named after what it was made from, so that another tower or other scenes are never read for these.
        tower = b"".join(p.detach().numpy().tobytes() for p in model.model.vision_tower.parameters())
        self.digest = hashlib.sha256(tower + repr(self.specs).encode()).hexdigest()[:16]
        path = work / f"gallery-{self.digest}.safetensors"
        if path.exists():
            stored = load_file(path)
            self.frames, self.images = stored["frames"], stored["images"]
            self.whiten()
            return
        parts = []
        for start in range(0, len(self.specs), 200):
            parts.append(encode(model, np.concatenate([s.render() for s in self.specs[start : start + 200]])))
        self.frames = torch.cat(parts)
        self.images = encode(model, np.stack([image.pixels for image in easy_vqa.images("train")]))
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        save_file({"frames": self.frames, "images": self.images}, temporary)
        os.replace(temporary, path)
        self.whiten()

    def whiten(self) -> None:
        """Makes the features uncorrelated and equally large, for learning; `fold` undoes it in the pooling.

        What tells shapes apart lies in directions that vary little beside colour and brightness.
        """
        every = torch.cat([part[::8].flatten(0, 1) for part in (self.frames, self.images)]).float()
        self.mean = every.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(every.T))
        self.whitening = (vectors / (values + SMALLEST_VARIANCE * values.mean()).sqrt()) @ vectors.T
        for part in (self.frames, self.images):
            for rows in part.split(1000):  # in place: all in float would be large
                rows.copy_((rows.float() - self.mean) @ self.whitening)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> nn.Module:
        """A copy of a model trained on whitened features that reads the tower's own."""
        model = copy.deepcopy(model)
        pool = model.model.vision_resampler.pool
        pool.weight.copy_(torch.einsum("dc,ocij->odij", self.whitening, pool.weight))
        pool.bias.sub_(torch.einsum("odij,d->o", pool.weight, self.mean))
        return model

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
        for _ in range(variants * 8):
            specs += [Scene(1, (int(rng.integers(2**31)),), number=number) for number in range(10)]
        specs += [Scene(1, (int(rng.integers(2**31)),)) for _ in range(variants * 64)]
        for _ in range(variants * 24):  # a number flashes in one frame only, so it has to be known the better
            specs += [Scene(1, (int(rng.integers(2**31)),), number=number) for number in range(10)]
        return specs

    def clip(self, rng: np.random.Generator, shape: Shape, dropped: float = 0.0) -> TrainingClip:
        """A new clip out of the gallery.

        Args:
            rng: decides everything.
            shape: length and composition; scenes of 3 to 5 frames.
            dropped: share of the empty frames, and of a scene's inner frames, that are left out to save time; the
                others keep their places.
        """
        plan = draw_clip("train", int(rng.integers(2**40)), shape)
        scenes, rows, places, told = [], [], [], []
        for scene, start in zip(plan.scenes, plan.starts, strict=True):
            if scene.shape is None and scene.number is None:
                scenes.append(scene)
                kept = np.flatnonzero(rng.random(scene.frames) >= dropped)
                pool = self.scenes[None, None, 1]
                rows += [self.starts[pool[rng.integers(len(pool))]] for _ in kept]
                places += [start + int(i) for i in kept]
                told += [()] * len(kept)
                continue
            kind = str(scene.number) if scene.number is not None else scene.shape
            pool = self.scenes[kind, scene.colour, scene.frames]
            chosen = pool[rng.integers(len(pool))]
            scenes.append(self.specs[chosen])
            # Where something moves its first and last frame tell all, so those always stay.
            inner = rng.random(scene.frames) >= dropped
            kept = [i for i in range(scene.frames) if inner[i] or i in (0, scene.frames - 1)]
            rows += [self.starts[chosen] + i for i in kept]
            places += [start + i for i in kept]
            told += [described(scenes[-1], i) for i in kept]
        asked = [Asked(q.kind, q.text, q.answer) for q in questions(Clip(tuple(scenes)))]
        return TrainingClip(self.frames[torch.tensor(rows)], np.array(places), plan.length, asked, tuple(told))

    def vqa(self, rng: np.random.Generator, count: int) -> TrainingClip:
        """A clip of `count` training images of easy-vqa."""
        clip = easy_vqa.vqa_clip("train", int(rng.integers(len(self.images))), count)
        rows = [image.index for image in clip.images for _ in range(clip.frames_per_image)]
        asked = [Asked("easy-vqa", q.text, q.answer) for q in clip.questions()]
        told = [(image.shape, image.colour) for image in clip.images for _ in range(clip.frames_per_image)]
        known = tuple(words if None not in words else () for words in told)
        return TrainingClip(self.images[torch.tensor(rows)], np.arange(clip.length), clip.length, asked, known)
