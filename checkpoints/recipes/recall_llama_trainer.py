"""Curriculum training of the recall model, with an exact resume.

Every batch is a function of (seed, step), and the whole state (weights, moments, progress) is one safetensors file that
is replaced atomically; so a run killed at any time and started again ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from checkpoints.recipes.recall_llama_model import ModelConfig, make_model
from evaluations.tasks.recall.corpus import RecallVocabulary
from evaluations.tasks.recall.filler import Filler
from evaluations.tasks.recall.tasks import IGNORED, TASKS
from evaluations.tasks.recall.training import (
    Rows,
    chains_row,
    jumping_positions,
    spans_row,
    stream_row,
    task_row,
    text_row,
    text_targets,
)
from namm.errors import CheckpointError

PRACTICE: Mapping[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"spans": spans_row, "chains": chains_row}
"""Rows with a loss on many tokens: for passkey and copy, and for variables."""

ACCURACY_MEMORY = 0.95
"""Decay of the running accuracies that end a stage."""


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum."""

    name: str
    """Shown in the log and the card."""
    tokens: tuple[int, ...]
    """Row lengths, one drawn per step."""
    mixture: Mapping[str, float]
    """Weight of each kind of row: "stream", "spans", "chains", "text" or a task's name."""
    active: int = 64
    """Active keys of the stream."""
    filler: tuple[float, float] = (0.0, 0.0)
    """Range of the filler fraction of stream, spans and chains, drawn per row."""
    span: int = 0
    """In half of the rows positions jump, up to this one; 0 means contiguous positions."""
    steps: int = 4000
    """The stage ends after so many steps at the latest."""
    minimum_steps: int = 20
    """The stage lasts at least so many steps."""
    until: float = 0.95
    """The stage ends once every judged kind's running accuracy reaches this; above 1 means only `steps` counts."""
    judged: tuple[str, ...] = ()
    """Kinds of rows whose accuracy ends the stage; none means all but text."""
    learning_rate: tuple[float, float] = (1.0, 1.0)
    """Factor on the peak learning rate at the stage's begin and after `steps`, cosine between."""


@dataclass(frozen=True)
class TrainingConfig:
    """What decides the weights, beside the model and the curriculum."""

    seed: int = 0
    """First seed tried."""
    starts: int = 8
    """Seeds tried at most."""
    patience_steps: int = 1500
    """A start whose first stage is below `patience_accuracy` after so many steps is dropped."""
    patience_accuracy: float = 0.6
    """See `patience_steps`."""
    step_tokens: int = 2048
    """Tokens of a step; rows = step_tokens // row length."""
    minimum_rows: int = 6
    """Rows of a step at least, also where they are long."""
    learning_rate: float = 2e-3
    """Peak."""
    warmup_steps: int = 50
    """Linear warm-up."""
    weight_decay: float = 0.05
    """AdamW's, on matrices only."""
    text_weight: float = 0.5
    """Weight of the language-modelling loss beside the recall loss."""
    bfloat16: bool = True
    """Autocast; 10 to 40% faster where the processor has bfloat16 instructions."""
    threads: int = 1
    """PyTorch threads; another number rounds differently."""


@dataclass
class Progress:
    """Where a training stands; together with the tensors it is the whole state."""

    seed: int
    stage: int = 0
    stage_step: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    accuracy: dict[str, float] = field(default_factory=dict)
    stage_steps: dict[str, int] = field(default_factory=dict)
    abandoned: list[int] = field(default_factory=list)
    finished: bool = False


class Trainer:
    """A model, its optimiser and its progress."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        curriculum: tuple[Stage, ...],
        vocabulary: RecallVocabulary,
        progress: Progress,
    ) -> None:
        self.model_config, self.config, self.curriculum = model, training, curriculum
        self.vocabulary, self.progress = vocabulary, progress
        self.model = make_model(model, vocabulary, progress.seed)
        self.parameters = dict(self.model.named_parameters())
        matrices = [parameter for parameter in self.parameters.values() if parameter.ndim > 1]
        rest = [parameter for parameter in self.parameters.values() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.98), fused=True)

    @property
    def stage(self) -> Stage:
        """The stage of the next step."""
        return self.curriculum[self.progress.stage]

    def restarted(self) -> Trainer:
        """A fresh trainer with the next seed, which remembers the dropped ones."""
        old = self.progress
        progress = Progress(old.seed + 1, seconds=old.seconds, abandoned=[*old.abandoned, old.seed])
        return Trainer(self.model_config, self.config, self.curriculum, self.vocabulary, progress)

    @property
    def stuck(self) -> bool:
        """Whether this start never left the first stage's plateau."""
        progress, config = self.progress, self.config
        late = progress.stage == 0 and progress.stage_step >= config.patience_steps
        return late and progress.accuracy.get("stream", 0.0) < config.patience_accuracy

    def batch(self) -> tuple[Rows, list[str]]:
        """The rows of the next step, a function of seed and step alone, and the kind of each."""
        stage, progress, vocabulary = self.stage, self.progress, self.vocabulary
        rng = np.random.default_rng([progress.seed, progress.step])
        tokens = int(rng.choice(stage.tokens))
        rows = max(self.config.minimum_rows, self.config.step_tokens // tokens)
        names, weights = list(stage.mixture), np.array(list(stage.mixture.values()))
        # Stratified: every kind has its share of every batch as nearly as whole rows allow.
        quantiles = (np.arange(rows) + rng.random()) / rows
        kinds = [names[i] for i in np.searchsorted(np.cumsum(weights) / weights.sum(), quantiles)]
        filler = Filler(vocabulary, vocabulary.text("train"), float(rng.uniform(0.2, 0.8)))
        parts = [self._row(kind, rng, tokens, filler) for kind in kinds]
        ids, recall = (np.stack(part) for part in zip(*parts, strict=True))
        positions = jumping_positions(rng, rows, tokens, stage.span)
        shuffled = rng.permutation(rows)
        return Rows(ids, recall, text_targets(ids, recall, vocabulary), positions[shuffled]), kinds

    def _row(self, kind: str, rng: np.random.Generator, tokens: int, filler: Filler) -> tuple[np.ndarray, np.ndarray]:
        stage, vocabulary = self.stage, self.vocabulary
        if kind == "stream":
            return stream_row(rng, vocabulary, tokens, stage.active, filler, float(rng.uniform(*stage.filler)))
        if kind in PRACTICE:
            return PRACTICE[kind](rng, vocabulary, tokens, filler, float(rng.uniform(*stage.filler)))
        if kind == "text":
            return text_row(rng, vocabulary, tokens)
        return task_row(replace(TASKS[kind], vocabulary=vocabulary), rng, tokens)

    def step(self) -> dict[str, float]:
        """One optimiser step; returns the losses and, by kind of row, the recall accuracies."""
        rows, kinds = self.batch()
        ids, recall, text, positions = (torch.from_numpy(a) for a in (rows.ids, rows.recall, rows.text, rows.positions))
        asked = recall != IGNORED
        wanted = asked | (text != IGNORED)
        labels, is_recall = torch.where(asked, recall, text)[wanted], asked[wanted]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            # Without a mask transformers takes a jump in the positions for the start of another sequence.
            hidden = self.model.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False
            ).last_hidden_state
            logits = self.model.lm_head(hidden[wanted])
        losses = functional.cross_entropy(logits.float(), labels, reduction="none")
        text_loss = _mean(losses[~is_recall])
        loss = _mean(losses[is_recall]) + self.config.text_weight * text_loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        report = {"loss": loss.item(), "text": text_loss.item()}
        hits = torch.zeros(ids.shape, dtype=torch.bool)
        hits[wanted] = logits.argmax(-1) == labels
        for kind in {*kinds} - {"text"}:
            chosen = torch.tensor([other == kind for other in kinds])
            report[kind] = (hits & asked)[chosen].sum().item() / max(1, asked[chosen].sum().item())
        self._advance(report, ids.numel())
        return report

    def _learning_rate(self) -> float:
        stage, progress, config = self.stage, self.progress, self.config
        begin, end = stage.learning_rate
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress.stage_step / stage.steps))
        warmup = min(1.0, (progress.step + 1) / config.warmup_steps)
        return config.learning_rate * warmup * (end + (begin - end) * cosine)

    def _advance(self, report: dict[str, float], tokens: int) -> None:
        progress, stage = self.progress, self.stage
        for kind, value in report.items():
            progress.accuracy[kind] = value + ACCURACY_MEMORY * (progress.accuracy.get(kind, value) - value)
        progress.step += 1
        progress.stage_step += 1
        progress.tokens += tokens
        progress.stage_steps[stage.name] = progress.stage_step
        judged = stage.judged or tuple(kind for kind in stage.mixture if kind != "text")
        reached = min(progress.accuracy.get(kind, 0.0) for kind in judged) >= stage.until
        if progress.stage_step >= stage.steps or (reached and progress.stage_step >= stage.minimum_steps):
            progress.stage, progress.stage_step, progress.accuracy = progress.stage + 1, 0, {}
            progress.finished = progress.stage == len(self.curriculum)

    def save(self, path: Path) -> None:
        """Writes weights, moments and progress as one safetensors file, atomically."""
        tensors: dict[str, Tensor] = {
            f"model.{name}": parameter.detach() for name, parameter in self.parameters.items()
        }
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
                    self.optimizer.state[parameter] = {
                        m: tensors[f"{m}.{name}"] for m in ("step", "exp_avg", "exp_avg_sq")
                    }
        except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"expected the state of an interrupted training of this model at {path}, found {error}; "
                "delete it to start anew"
            ) from error
        self.progress = progress


def _mean(losses: Tensor) -> Tensor:
    return losses.mean() if losses.numel() else losses.sum()
