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
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn import functional

from checkpoints.recipes.video_alignment import Squares
from checkpoints.recipes.video_batches import IGNORED, Batch, Layout
from checkpoints.recipes.video_gallery import Asked, Gallery, TrainingClip
from checkpoints.recipes.video_start import order_codes
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
    unknown_first: bool = False
    """Ask the more for a kind, the less it is known; else for all alike."""
    vqa: tuple[int, ...] = ()
    """Images of an easy-vqa clip, one drawn per step that has them; none means no such step."""
    vqa_share: float = 0.25
    """Part of the steps that have easy-vqa clips."""
    dropped: float = 0.0
    """Share of the squares that are left out, see `Gallery.clip`; the others keep their positions."""
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
    earlier_weight: float = 0.5
    """Weight of the loss on the shape that came before, which squares have to bring to mind."""
    earlier_layer: int = 1
    """The layer after which it is asked for."""
    aligned_squares: int = 256
    """Squares of a step beside the clips whose alignment with their words goes on."""
    aligned_weight: float = 0.2
    """Weight of that loss."""
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
        self,
        model: nn.Module,
        gallery: Gallery,
        config: TrainingConfig,
        curriculum: tuple[Stage, ...],
        seed: int,
        growth: float,
    ) -> None:
        """`growth` is what `start_near_answers` returned."""
        self.model, self.gallery, self.config, self.curriculum = model, gallery, config, curriculum
        self.progress, self.layout, self.squares = Progress(seed), Layout(), Squares(gallery)
        self.growth = growth
        self.codes, _ = order_codes(model.config.text_config.hidden_size)
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
            clips = [self.gallery.vqa(rng, count, stage.dropped)]
            clips += [self.gallery.vqa(rng, count, stage.dropped) for _ in range(self._rows(clips[0]) - 1)]
        else:
            shape = Shape(stage.frames, stage.scenes)
            clips = [self.gallery.clip(rng, shape, stage.dropped)]
            clips += [self.gallery.clip(rng, shape, stage.dropped) for _ in range(self._rows(clips[0]) - 1)]
        return self.layout.batch(clips, [self._asked(rng, clip) for clip in clips])

    def _rows(self, clip: TrainingClip) -> int:
        return max(
            1,
            self.stage.step_tokens // self.ranks // (len(clip.places) + 13 * self.stage.questions),
        )

    def _asked(self, rng: np.random.Generator, clip: TrainingClip) -> list[Asked]:
        """First the kinds, then one question of each."""
        by_kind: dict[str, list[Asked]] = {}
        for asked in clip.questions:
            if not self.stage.kinds or asked.kind in (*self.stage.kinds, "easy-vqa"):
                by_kind.setdefault(asked.kind, []).append(asked)
        names = sorted(by_kind)
        if self.stage.unknown_first:
            unknown = np.array([1.1 - self.progress.accuracy.get(name, 0.0) for name in names])
            kinds = [names[i] for i in rng.choice(len(names), self.stage.questions, p=unknown / unknown.sum())]
        else:
            start = int(rng.integers(len(names)))
            kinds = [names[(start + i) % len(names)] for i in range(self.stage.questions)]
        return [by_kind[kind][rng.integers(len(by_kind[kind]))] for kind in kinds]

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
        earlier, recalled = self._earlier(batch, hidden[self.config.earlier_layer])
        seed = hash((self.progress.seed, self.progress.step, self.rank)) % 2**62
        generator = torch.Generator().manual_seed(seed)
        aligned, _ = self.squares.loss(self.model, self.config.aligned_squares // self.ranks, generator, self.growth)
        beside = self.config.earlier_weight * earlier + self.config.aligned_weight * aligned
        (answering + self.config.end_weight * ending + beside).backward()
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
        mean = torch.tensor([answering.item(), recalled]) / self.ranks
        if self.ranks > 1:
            distributed.all_reduce(hits)
            distributed.all_reduce(mean)
        report = dict(zip(("loss", "earlier"), mean.tolist(), strict=True))
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

    def _earlier(self, batch: Batch, hidden: Float[Tensor, "rows tokens width"]) -> tuple[Tensor, float]:
        """The loss on the shape before, which each square has to bring to mind, and how often it leads.

        It is asked of an early layer against fixed random codes, so that the layers above find the order of things in
        the squares themselves. Answers alone teach the same, but few questions ask for it.
        """
        rows, tokens, shapes = batch.earlier.T
        state = self.model.model.language_model.norm(hidden[rows, tokens])
        scores = state @ self.codes.T * self.codes.shape[1] ** -0.5
        loss = functional.cross_entropy(scores, shapes, reduction="sum") / max(1, len(shapes))
        return loss, (scores.argmax(1) == shapes).sum().item() / max(1, len(shapes))

    def _learning_rate(self) -> float:
        stage, progress, config = self.stage, self.progress, self.config
        begin, end = stage.learning_rate
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress.stage_step / stage.steps))
        warmup = min(1.0, (progress.step + 1) / config.warmup_steps)
        return config.learning_rate * warmup * (end + (begin - end) * cosine)

    def _advance(self, report: dict[str, float], questions: int) -> None:
        progress, stage = self.progress, self.stage
        for kind, value in report.items():
            if kind not in ("loss", "earlier"):
                progress.accuracy[kind] = value + ACCURACY_MEMORY * (progress.accuracy.get(kind, 0.0) - value)
        progress.step += 1
        progress.stage_step += 1
        progress.questions += questions
        progress.stage_steps[stage.name] = progress.stage_step
        asked = [value for kind, value in progress.accuracy.items() if kind != "easy-vqa"]
        reached = bool(asked) and min(asked) >= stage.until
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
