"""Trains a NAMM's numbers on the loss that its own forgetting causes, forgetting made soft so that it has a gradient.

Worths (`training.py`) are derivatives at the full cache: how much each token alone would be missed. What is lost
together, and what others make up for, they do not say. Here a prompt is first read under the NAMM as it is, which shows
what it sees of the tokens that it has left. Then the model reads the prompt once more, and a token weighs in all later
chunks as much as the NAMM has been sure of it: the logarithms of the sigmoids of its scores, over all updates since, or
that of its least score alone, are added to its logits. The derivatives of the answer's loss by these biases go on into
the scores. So a token that was forgotten and is missed is pulled up, and one that is kept and disturbs is pushed down.
If asked, weights come nearer to all or nothing from step to step.

The part that is kept is held where it should be by a threshold for each source, which is moved and not trained: by how
far the part was off; and by least scores first to where as many of the tokens seen stand as before the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import logsigmoid

from evaluations.hindsight.recording import Seen, seen_under
from evaluations.hindsight.shown import scores_of
from evaluations.hindsight.training import units
from evaluations.tasks.lessons import Lesson
from modalities.language.token_gradients import token_gradients
from namm import NAMM
from namm.errors import ConfigError, DataError
from namm.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel


UNJUDGED = 1e6
"""Score of a token before its first update, in units of softness."""

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

    averaged: float = 0.0
    """Part of the steps, the last, whose numbers are averaged into what it has come to: each step sees few prompts."""

    softness: float = 0.25
    """Score, in deviations of the first scores, at which a token weighs e / (1 + e) as much; in the first step."""

    last_softness: float | None = None
    """In the last step, reached in equal ratios; the loss there is nearly that of real forgetting. None: no change."""

    gate: Literal["product", "least"] = "product"
    """What a token weighs by: the product over its updates, by which one that is kept by little fades, the longer the
    text the more; or the least score that it has had, which is what decides when forgetting is real. With the product
    thresholds are held by `pull` alone."""

    floor: float = -12.0
    """Least bias: so far down a token is as good as forgotten, and has no gradient; only nearer ones are moved."""

    keep: float = 0.25
    """Part of the tokens that is kept."""

    pull: float = 2.0
    """Deviations by which the threshold moves a step when everything is kept where nothing should be."""

    cosine_unit: float = 20.0
    """See :class:`evaluations.hindsight.training.TrainingConfig`."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.keep < 1 or not self.softness > 0:
            raise ConfigError(f"Expected steps, prompts and a softness above 0 and a part to keep, found {self}.")
        if not 0 <= self.averaged <= 1:
            raise ConfigError(f"Expected a part of the steps between 0 and 1, found {self.averaged}.")
        if self.last_softness is not None and not 0 < self.last_softness <= self.softness:
            raise ConfigError(
                f"Expected a last softness above 0 and up to {self.softness}, found {self.last_softness}."
            )

    def averages(self, step: int) -> bool:
        """Whether the numbers after a step, the first being 0, are part of the average."""
        return step >= self.steps - round(self.averaged * self.steps)

    def softness_at(self, step: int) -> float:
        """Of a step, the first being 0."""
        if self.last_softness is None or self.steps == 1:
            return self.softness
        return self.softness * (self.last_softness / self.softness) ** (step / (self.steps - 1))


@dataclass(frozen=True)
class Step:
    """What one step saw."""

    losses: tuple[float, ...]
    """Nats a wanted token, of each prompt under soft forgetting."""

    kept: tuple[float, ...]
    """Part of the tokens that was kept, forgetting being real: the mean of each source."""


@dataclass(frozen=True)
class _Read:
    """One prompt in one step."""

    loss: float
    """Nats a wanted token under soft forgetting."""

    kept: float
    updates: tuple[Seen, ...]
    scores: tuple[Float[Tensor, "layers kv_heads slots"], ...]
    """What the numbers before the step gave the tokens of each update."""


class SoftTraining:
    """Numbers on their way, step by step; what is saved goes on as if it had not been interrupted."""

    def __init__(self, namm: NAMM, config: SoftConfig, sources: int = 1) -> None:
        """The start.

        Args:
            namm: Where it begins; at threshold 0 it keeps about the wanted part of the first source's prompts.
            config: How.
            sources: How many models are read in each step.
        """
        self.config, self._start = config, namm
        self._unit = units(namm, config.cosine_unit)
        self._weights = torch.nn.Parameter(namm.flat / self._unit)
        self._sum, self._summed = torch.zeros_like(namm.flat), 0
        self._optimizer = torch.optim.Adam([self._weights], lr=config.rate, betas=(0.9, 0.98))
        self._deviation = 0.0
        self._thresholds = [0.0] * sources
        self.number = 0
        """Steps so far."""

    @property
    def namm(self) -> NAMM:
        """What it has come to: the average so far of the last steps' numbers; before those, the last numbers."""
        return self._with(self._sum / self._summed if self._summed else self._weights)

    def _with(self, weights: Float[Tensor, " params"]) -> NAMM:
        return NAMM(self._start.config, (weights * self._unit).detach(), self._start.statistics)

    def step(self, models: Sequence[PreTrainedModel], lessons: Sequence[Sequence[Lesson]]) -> Step:
        """One step on some prompts.

        Args:
            models: The sources, the same in every step.
            lessons: Prompts for each.
        """
        config = self.config
        share = 0.5 + 0.5 * math.cos(math.pi * self.number / config.steps)
        self._optimizer.param_groups[0]["lr"] = config.rate * min(1.0, (self.number + 1) / 10) * (0.05 + 0.95 * share)
        self._optimizer.zero_grad()
        count = sum(map(len, lessons))
        found = [
            [self._learn(model, lesson, threshold, count) for lesson in some]
            for model, some, threshold in zip(models, lessons, self._thresholds, strict=True)
        ]
        torch.nn.utils.clip_grad_norm_([self._weights], 1.0)
        self._optimizer.step()
        kept = tuple(sum(read.kept for read in some) / len(some) for some in found)
        thresholds = [
            (self._same_number(some, threshold) if config.gate == "least" else threshold)
            + config.pull * self._deviation * (part - config.keep)
            for some, threshold, part in zip(found, self._thresholds, kept, strict=True)
        ]
        self._start.scorer.unpack(self._weights.data[None])["score_bias"].sub_(thresholds[0])
        self._thresholds = [threshold - thresholds[0] for threshold in thresholds]
        if config.averages(self.number):
            self._sum.add_(self._weights.data)
            self._summed += 1
        self.number += 1
        return Step(tuple(read.loss for some in found for read in some), kept)

    @torch.no_grad()
    def _same_number(self, some: Sequence[_Read], before: float) -> float:
        """The threshold that as many of the tokens that were seen reach now as reached the one before the step.

        Numbers that have moved give all tokens more or less; without this the part that is kept runs away.
        """
        flat, held, now = self._weights * self._unit, [], []
        for read in some:
            for update, part in zip(read.updates, read.scores, strict=True):
                valid = update.positions >= 0
                held.append(part[valid] >= before)
                now.append(scores_of(self._start, flat, update)[valid])
        ranked = torch.cat(now).sort(descending=True).values
        return float(ranked[max(0, int(torch.cat(held).sum()) - 1)])

    def _learn(self, model: PreTrainedModel, lesson: Lesson, threshold: float, count: int) -> _Read:
        """Adds a prompt's derivatives; returns what was seen."""
        config, now = self.config, self._with(self._weights)
        all_of_them = len(lesson.ids)
        updates, kept = seen_under(model, lesson, now, "sequence", all_of_them, threshold, now.config.of_keys)
        scores = [scores_of(now, self._weights * self._unit, update) for update in updates]
        if not self._deviation:
            held = [part.detach()[update.positions >= 0] for part, update in zip(scores, updates, strict=True)]
            self._deviation = float(torch.cat(held).std())
        unit = config.softness_at(self.number) * self._deviation
        given = [(part.detach() - threshold).requires_grad_() for part in scores]
        bias = _biases(_weights(given, updates, lesson, unit, config.gate), lesson, config)
        ids, wanted = torch.tensor(lesson.ids), torch.tensor(lesson.wanted)
        slopes, loss = token_gradients(model, ids, wanted, lesson.interval, bias.detach())
        asked = int(wanted.sum())
        bias.backward(slopes / (asked * count))
        torch.autograd.backward(scores, _at_one_size(given, updates, unit))
        return _Read(loss / asked, kept, updates, tuple(part.detach() for part in scores))

    def save(self, path: Path) -> None:
        """Writes all that going on needs, whole or not at all."""
        state = self._optimizer.state[self._weights]
        tensors = {name: state[name] for name in MOMENTS if name in state} | {"weights": self._weights.data}
        facts = {"number": torch.tensor(self.number), "deviation": torch.tensor(self._deviation, dtype=torch.float64)}
        tensors["sum"], facts["summed"] = self._sum, torch.tensor(self._summed)
        facts["thresholds"] = torch.tensor(self._thresholds, dtype=torch.float64)
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
            self._thresholds = found["thresholds"].tolist()
            self._sum.copy_(found["sum"])
            self._summed = int(found["summed"])
            if self.number:
                self._optimizer.state[self._weights] = {name: found[name] for name in MOMENTS}
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise DataError(f"Expected a training in {path}, found: {error!r}; delete it to begin again.") from error


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


def _weights(
    scores: Sequence[Float[Tensor, "layers kv_heads slots"]],
    updates: Sequence[Seen],
    lesson: Lesson,
    unit: float,
    gate: str,
) -> list[Float[Tensor, "layers kv_heads read"]]:
    """After each update, every token's least score so far in units of softness, or the logarithm of the product."""
    layers, heads, _ = updates[0].positions.shape
    place = (layers, heads, len(lesson.ids) - 1)
    so_far = scores[0].new_full(place, UNJUDGED if gate == "least" else 0.0)
    after = []
    for part, update in zip(scores, updates, strict=True):
        valid, where = update.positions >= 0, update.positions.long().clamp_min(0)
        given = part / unit
        if gate == "least":
            now = so_far.new_full(place, UNJUDGED).scatter_reduce(
                2, where, given.masked_fill(~valid, UNJUDGED), "amin", include_self=True
            )
            so_far = torch.minimum(so_far, now)
        else:
            so_far = so_far.scatter_add(2, where, logsigmoid(given).masked_fill(~valid, 0.0))
        after.append(so_far)
    return after


def _biases(
    after: Sequence[Float[Tensor, "layers kv_heads read"]], lesson: Lesson, config: SoftConfig
) -> Float[Tensor, "layers kv_heads chunks read"]:
    """How much each token weighs in the chunk after each update, as a bias on its logits; 0 before it was judged."""
    count = -(-(len(lesson.ids) - 1) // lesson.interval)
    chunks = [torch.zeros_like(after[0])]
    chunks += [(logsigmoid(part) if config.gate == "least" else part).clamp_min(config.floor) for part in after]
    return torch.stack([*chunks, *[chunks[-1]] * (count - len(chunks))][:count], dim=2)
