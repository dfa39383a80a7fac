"""Curriculum training of the small video model's language part, with an exact resume.

The tower stays as open_clip left it; projector and language model learn. Every batch is a function of (seed, step), and
the whole state (weights, moments, progress) is one safetensors file that is replaced atomically. Under `torchrun` the
ranks share each step's clips; another number of ranks draws others.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn import functional

from checkpoints.recipes.video_alignment import Frames
from checkpoints.recipes.video_batches import IGNORED, Batch, Layout
from checkpoints.recipes.video_gallery import TOKENS_PER_FRAME, Asked, Gallery, TrainingClip
from evaluations.tasks.video.questions import CHOICES
from evaluations.tasks.video.rendered import Shape
from namm.errors import CheckpointError

KINDS = (*CHOICES, "easy-vqa")
"""All kinds of questions."""

ACCURACY_MEMORY = 0.96
"""Decay of the running accuracies that end a stage."""


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum."""

    name: str
    frames: int
    """Length of the rendered clips."""
    scenes: tuple[int, int]
    """Fewest and most scenes with shapes."""
    questions: int = 12
    """Questions asked of each clip."""
    kinds: tuple[str, ...] = ()
    """Kinds of questions; none means all."""
    vqa: tuple[int, ...] = ()
    """Images of an easy-vqa clip, one drawn per step that has them; none means no such step."""
    vqa_share: float = 0.25
    """Part of the steps that have easy-vqa clips."""
    dropped: float = 0.0
    """Share of the empty frames, and of a scene's inner frames, that are left out; the others keep their positions."""
    step_tokens: int = 2048
    """Tokens of a step, about: clips = step_tokens // (tokens of a clip and its questions)."""
    steps: int = 1000
    """The stage ends after so many steps at the latest."""
    until: float = 0.9
    """The stage ends once the running accuracy of every kind reaches this; above 1 means only `steps` counts."""
    learning_rate: tuple[float, float] = (1.0, 1.0)
    """Factor on the peak learning rate at the stage's begin and after `steps`, cosine between."""


@dataclass(frozen=True)
class TrainingConfig:
    """What decides the weights, beside the model, the tower and the curriculum."""

    seed: int = 0
    """First seed tried."""
    starts: int = 4
    """Seeds tried at most."""
    patience_steps: int = 600
    """A start whose first stage is below `patience_accuracy` after so many steps is dropped."""
    patience_accuracy: float = 0.5
    """See `patience_steps`; the mean over kinds."""
    learning_rate: float = 2e-3
    """Peak."""
    warmup_steps: int = 50
    """Linear warm-up."""
    weight_decay: float = 0.05
    """AdamW's, on matrices only."""
    end_weight: float = 0.1
    """Weight of the loss on the token that ends an answer."""
    told_weight: float = 1.0
    """Weight of the loss on the words that describe each frame."""
    aligned_frames: int = 192
    """Frames of a step beside the clips whose alignment with their words goes on."""
    aligned_weight: float = 0.3
    """Weight of that loss."""
    told_layer: int = 2
    """The layer after which they are asked for."""
    threads: int = 1
    """PyTorch threads; another number rounds differently."""


@dataclass
class Progress:
    """Where a training stands; together with the tensors it is the whole state."""

    seed: int
    stage: int = 0
    stage_step: int = 0
    step: int = 0
    questions: int = 0
    seconds: float = 0.0
    accuracy: dict[str, float] = field(default_factory=dict)
    stage_steps: dict[str, int] = field(default_factory=dict)
    abandoned: list[int] = field(default_factory=list)
    finished: bool = False


class Trainer:
    """A model, its optimiser and its progress."""

    def __init__(
        self, model: nn.Module, gallery: Gallery, config: TrainingConfig, curriculum: tuple[Stage, ...], seed: int
    ) -> None:
        self.model, self.gallery, self.config, self.curriculum = model, gallery, config, curriculum
        self.progress, self.layout, self.frames = Progress(seed), Layout(), Frames(gallery)
        started = distributed.is_available() and distributed.is_initialized()
        self.rank, self.ranks = (distributed.get_rank(), distributed.get_world_size()) if started else (0, 1)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        rest = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)

    @property
    def stage(self) -> Stage:
        """The stage of the next step."""
        return self.curriculum[self.progress.stage]

    @property
    def stuck(self) -> bool:
        """Whether this start never left the first stage's plateau."""
        progress, config = self.progress, self.config
        late = progress.stage == 0 and progress.stage_step >= config.patience_steps
        return late and float(np.mean([*progress.accuracy.values()])) < config.patience_accuracy

    def batch(self) -> Batch:
        """This rank's part of the next step's batch, a function of seed, step, rank and number of ranks."""
        rng = np.random.default_rng([self.progress.seed, self.progress.step, self.rank])
        stage = self.stage
        if stage.vqa and rng.random() < stage.vqa_share:
            count = int(rng.choice(stage.vqa))
            clips = [self.gallery.vqa(rng, count)]
            clips += [self.gallery.vqa(rng, count) for _ in range(self._rows(clips[0]) - 1)]
        else:
            shape = Shape(stage.frames, stage.scenes)
            clips = [self.gallery.clip(rng, shape, stage.dropped)]
            clips += [self.gallery.clip(rng, shape, stage.dropped) for _ in range(self._rows(clips[0]) - 1)]
        return self.layout.batch(clips, [self._asked(rng, clip) for clip in clips])

    def _rows(self, clip: TrainingClip) -> int:
        return max(
            1,
            self.stage.step_tokens // self.ranks // (len(clip.places) * TOKENS_PER_FRAME + 13 * self.stage.questions),
        )

    def _asked(self, rng: np.random.Generator, clip: TrainingClip) -> list[Asked]:
        """Kinds in equal parts, then one of the kind."""
        by_kind: dict[str, list[Asked]] = {}
        for asked in clip.questions:
            if not self.stage.kinds or asked.kind in (*self.stage.kinds, "easy-vqa"):
                by_kind.setdefault(asked.kind, []).append(asked)
        names = sorted(by_kind)
        start = int(rng.integers(len(names)))
        chosen = []
        for i in range(self.stage.questions):
            pool = by_kind[names[(start + i) % len(names)]]
            chosen.append(pool[rng.integers(len(pool))])
        return chosen

    def step(self) -> dict[str, float]:
        """One optimiser step; returns the loss and, by kind of question, the share answered rightly."""
        batch = self.batch()
        wanted = batch.targets != IGNORED
        labels, kinds = batch.targets[wanted], batch.kinds[wanted]
        hidden = self.layout.hidden(self.model, batch)
        logits = self.model.lm_head(hidden[-1][wanted])
        losses = functional.cross_entropy(logits, labels, reduction="none")
        answers = kinds >= 0
        answering, ending = losses[answers].mean(), losses[~answers].mean()
        told, described = self._describe(batch, hidden)
        seed = hash((self.progress.seed, self.progress.step, self.rank)) % 2**62
        generator = torch.Generator().manual_seed(seed)
        aligned, _ = self.frames.loss(self.model, self.config.aligned_frames // self.ranks, generator)
        told = self.config.told_weight * told + self.config.aligned_weight * aligned
        (answering + self.config.end_weight * ending + told).backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        right = logits.argmax(-1) == labels
        hits = torch.zeros(2, len(KINDS))
        for index, name in enumerate(batch.kind_names):
            hits[:, KINDS.index(name)] = torch.stack([right[kinds == index].sum(), (kinds == index).sum()])
        mean = torch.tensor([(answering + told).item(), described]) / self.ranks
        if self.ranks > 1:
            distributed.all_reduce(hits)
            distributed.all_reduce(mean)
        report = dict(zip(("loss", "frames"), mean.tolist(), strict=True))
        report |= {name: (hits[0, i] / hits[1, i]).item() for i, name in enumerate(KINDS) if hits[1, i] > 0}
        self._advance(report, int(hits[1].sum()))
        return report

    def _share_gradients(self) -> None:
        if self.ranks == 1:
            return
        gradients = [p.grad for p in self.parameters.values()]
        flat = nn.utils.parameters_to_vector(gradients) / self.ranks
        distributed.all_reduce(flat)
        nn.utils.vector_to_parameters(flat, gradients)

    def _describe(self, batch: Batch, hidden: tuple[Tensor, ...]) -> tuple[Tensor, float]:
        """The loss on the words that each frame's last token has to bring to mind, and how many of them lead.

        It is asked of a middle layer, so that the layers above find whole frames described in one token each. Answers
        alone teach the same, but a dozen to a clip are few.
        """
        rows, tokens, ids = batch.told.T
        state = hidden[self.config.told_layer][rows, tokens]
        scores = self.model.lm_head(self.model.model.language_model.norm(state))
        loss = functional.cross_entropy(scores, ids, reduction="sum") / max(1, len(ids))
        best = scores.topk(4).indices
        return loss, (best == ids[:, None]).any(1).sum().item() / max(1, len(ids))

    def _learning_rate(self) -> float:
        stage, progress, config = self.stage, self.progress, self.config
        begin, end = stage.learning_rate
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress.stage_step / stage.steps))
        warmup = min(1.0, (progress.step + 1) / config.warmup_steps)
        return config.learning_rate * warmup * (end + (begin - end) * cosine)

    def _advance(self, report: dict[str, float], questions: int) -> None:
        progress, stage = self.progress, self.stage
        for kind, value in report.items():
            if kind not in ("loss", "frames"):
                progress.accuracy[kind] = value + ACCURACY_MEMORY * (progress.accuracy.get(kind, 0.0) - value)
        progress.step += 1
        progress.stage_step += 1
        progress.questions += questions
        progress.stage_steps[stage.name] = progress.stage_step
        reached = min(progress.accuracy.values()) >= stage.until
        if progress.stage_step >= stage.steps or reached:
            progress.stage, progress.stage_step, progress.accuracy = progress.stage + 1, 0, {}
            progress.finished = progress.stage == len(self.curriculum)

    def save(self, path: Path) -> None:
        """Writes weights, moments and progress as one safetensors file, atomically; rank 0 does."""
        if self.rank > 0:
            return
        tensors: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}.{name}"] = value
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(self.progress))})
        os.replace(temporary, path)

    def restore(self, path: Path) -> None:
        """Takes over the state saved at `path`.

        Raises:
            CheckpointError: if the file is damaged or of another model.
        """
        try:
            with safe_open(path, "pt") as file:
                progress = Progress(**json.loads(file.metadata()["progress"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            for name, parameter in self.parameters.items():
                parameter.data.copy_(tensors[f"model.{name}"])
                if f"step.{name}" in tensors:
                    moments = {m: tensors[f"{m}.{name}"] for m in ("step", "exp_avg", "exp_avg_sq")}
                    self.optimizer.state[parameter] = moments
        except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"expected the state of an interrupted training of this model at {path}, found {error}; "
                "delete it to start anew"
            ) from error
        self.progress = progress
