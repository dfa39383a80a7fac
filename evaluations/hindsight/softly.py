"""Trains a NAMM's numbers on the loss that its own forgetting causes, forgetting made soft so that it has a gradient.

Worths (`training.py`) are derivatives at the full cache: how much each token alone would be missed. What is lost
together, and what others make up for, they do not say. Here a prompt is first read under the NAMM as it is, which shows
what it sees of the tokens that it has left. Then the model reads the prompt once more, and a token weighs in all later
chunks as much as the NAMM has been sure of it: the logarithms of the sigmoids of its scores, over all updates since,
are added to its logits. The derivatives of the answer's loss by these biases go on into the scores. So a token that was
forgotten and is missed is pulled up, and one that is kept and disturbs is pushed down.

The part that is kept is held where it should be by the threshold, which is moved and not trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import logsigmoid

from evaluations.hindsight.recording import KEYS, Seen, seen_under
from evaluations.hindsight.training import shown, units
from evaluations.tasks.lessons import Lesson
from modalities.language.token_gradients import token_gradients
from namm import NAMM
from namm.errors import ConfigError, DataError
from namm.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam remembers."""


@dataclass(frozen=True)
class SoftConfig:
    """How numbers are trained."""

    steps: int = 200
    batch: int = 2
    """Prompts a step."""

    rate: float = 1e-3
    """Largest learning rate, after ten steps; falls to a twentieth along a cosine."""

    softness: float = 0.25
    """Score, in deviations of the first scores, at which a token weighs e / (1 + e) as much."""

    floor: float = -12.0
    """Least bias: so far down a token is no more than forgotten, and still has a gradient."""

    keep: float = 0.25
    """Part of the tokens that is kept."""

    pull: float = 2.0
    """Deviations by which the threshold moves a step when everything is kept where nothing should be."""

    cosine_unit: float = 20.0
    """See :class:`evaluations.hindsight.training.TrainingConfig`."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.keep < 1 or not self.softness > 0:
            raise ConfigError(f"Expected steps, prompts and a softness above 0 and a part to keep, found {self}.")


@dataclass(frozen=True)
class Step:
    """What one step saw."""

    losses: tuple[float, ...]
    """Nats a wanted token, of each prompt under soft forgetting."""

    kept: float
    """Part of the tokens that was kept, forgetting being real."""


class SoftTraining:
    """Numbers on their way, step by step; what is saved goes on as if it had not been interrupted."""

    def __init__(self, namm: NAMM, config: SoftConfig) -> None:
        """The start.

        Args:
            namm: Where it begins; at threshold 0 it keeps about the wanted part.
            config: How.
        """
        self.config, self._start = config, namm
        self._unit = units(namm, config.cosine_unit)
        self._weights = torch.nn.Parameter(namm.flat / self._unit)
        self._optimizer = torch.optim.Adam([self._weights], lr=config.rate, betas=(0.9, 0.98))
        self._deviation = 0.0
        self.number = 0
        """Steps so far."""

    @property
    def namm(self) -> NAMM:
        """What it has come to."""
        return NAMM(self._start.config, (self._weights * self._unit).detach(), self._start.statistics)

    def step(self, model: PreTrainedModel, lessons: Sequence[Lesson]) -> Step:
        """One step on some prompts.

        Args:
            model: The source.
            lessons: ``batch`` of them.
        """
        config = self.config
        share = 0.5 + 0.5 * math.cos(math.pi * self.number / config.steps)
        self._optimizer.param_groups[0]["lr"] = config.rate * min(1.0, (self.number + 1) / 10) * (0.05 + 0.95 * share)
        self._optimizer.zero_grad()
        found = [self._learn(model, lesson) for lesson in lessons]
        torch.nn.utils.clip_grad_norm_([self._weights], 1.0)
        self._optimizer.step()
        kept = sum(fraction for _, fraction in found) / len(found)
        threshold = self._start.scorer.unpack(self._weights.data[None])["score_bias"]
        threshold.sub_(config.pull * self._deviation * (kept - config.keep))
        self.number += 1
        return Step(tuple(loss for loss, _ in found), kept)

    def _learn(self, model: PreTrainedModel, lesson: Lesson) -> tuple[float, float]:
        """Adds a prompt's derivatives; returns its loss a wanted token, and the part that was kept."""
        now, config = self.namm, self.config
        updates, kept = seen_under(model, lesson, now, "sequence", len(lesson.ids), 0.0)
        scores = [_scores(now, self._weights * self._unit, update) for update in updates]
        if not self._deviation:
            held = [part.detach()[update.positions >= 0] for part, update in zip(scores, updates, strict=True)]
            self._deviation = float(torch.cat(held).std())
        unit = config.softness * self._deviation
        given = [part.detach().requires_grad_() for part in scores]
        bias = _biases(given, updates, lesson, unit, config.floor)
        ids, wanted = torch.tensor(lesson.ids), torch.tensor(lesson.wanted)
        slopes, loss = token_gradients(model, ids, wanted, lesson.interval, bias.detach())
        asked = int(wanted.sum())
        bias.backward(slopes / (asked * config.batch))
        torch.autograd.backward(scores, _at_one_size(given, updates, unit))
        return loss / asked, kept

    def save(self, path: Path) -> None:
        """Writes all that going on needs, whole or not at all."""
        state = self._optimizer.state[self._weights]
        tensors = {name: state[name] for name in MOMENTS if name in state} | {"weights": self._weights.data}
        facts = {"number": torch.tensor(self.number), "deviation": torch.tensor(self._deviation, dtype=torch.float64)}
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in (tensors | facts).items()}))

    def restore(self, path: Path) -> None:
        """Goes on from what was saved under the same start and config.

        Raises:
            DataError: The file is damaged, or of another NAMM.
        """
        try:
            found = load_file(path)
            self._weights.data.copy_(found["weights"])
            self.number, self._deviation = int(found["number"]), float(found["deviation"])
            if self.number:
                self._optimizer.state[self._weights] = {name: found[name] for name in MOMENTS}
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise DataError(f"Expected a training in {path}, found: {error!r}; delete it to begin again.") from error


def _scores(namm: NAMM, flat: Float[Tensor, " params"], update: Seen) -> Float[Tensor, "layers kv_heads slots"]:
    """What these numbers give the tokens of an update."""
    wanted = [KEYS.index(name) for name in namm.config.of_keys]
    positions = update.positions.flatten(0, 1).long()
    spectrum = update.spectrum.flatten(0, 1).float()[..., : namm.config.bins]
    of_keys = update.of_keys.flatten(0, 1).float()[..., wanted]
    features, valid = shown(namm, positions, spectrum, of_keys, update.seen)
    judge = torch.zeros(len(features), dtype=torch.long)
    return namm.scorer(flat[None], features, valid, judge).view(update.positions.shape)


def _at_one_size(
    given: Sequence[Float[Tensor, "layers kv_heads slots"]], updates: Sequence[Seen], unit: float
) -> list[Float[Tensor, "layers kv_heads slots"]]:
    """Derivatives of the scores without their part along that of what is kept: to keep more would always help."""
    slopes, sizes = [], []
    for part, update in zip(given, updates, strict=True):
        assert part.grad is not None
        sure = torch.sigmoid(part.detach() / unit)
        slopes.append(part.grad)
        sizes.append((sure * (1 - sure)).masked_fill(update.positions < 0, 0.0))
    along = sum(float((slope * size).sum()) for slope, size in zip(slopes, sizes, strict=True))
    length = sum(float((size * size).sum()) for size in sizes)
    return [slope - along / max(length, 1e-12) * size for slope, size in zip(slopes, sizes, strict=True)]


def _biases(
    scores: Sequence[Float[Tensor, "layers kv_heads slots"]],
    updates: Sequence[Seen],
    lesson: Lesson,
    unit: float,
    floor: float,
) -> Float[Tensor, "layers kv_heads chunks read"]:
    """How much each token weighs in the chunk after each update, as a bias on its logits; 0 before it was judged."""
    read = len(lesson.ids) - 1
    layers, heads, _ = updates[0].positions.shape
    sure = scores[0].new_zeros(layers, heads, read)
    chunks = [sure]
    for part, update in zip(scores, updates, strict=True):
        valid = update.positions >= 0
        weighs = logsigmoid(part / unit).masked_fill(~valid, 0.0)
        sure = sure.scatter_add(2, update.positions.long().clamp_min(0), weighs)
        chunks.append(sure.clamp_min(floor))
    missing = -(-read // lesson.interval) - len(chunks)
    return torch.stack([*chunks, *[chunks[-1]] * missing][: -(-read // lesson.interval)], dim=2)
