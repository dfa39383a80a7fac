"""Trains a NAMM's numbers by gradient on recordings: which tokens will turn out to be worth most.

Scores are read as logarithms of shares: of all tokens of some heads, each has the share of the softmax, and should have
the share of the worth (cross-entropy over the list). So the few tokens that carry most of the worth count most, and one
score orders tokens of all layers and heads. Worths have no common unit between prompts; shares need none. (Asking
whether a worth reaches fixed levels, token by token, learns the bulk and ranks needles no better than chance.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.hindsight.recording import Recording
from evaluations.hindsight.shown import batch_of
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.features import FeatureStatistics

START_SPREAD = 0.05
"""Deviation of the first weights; zeros would have no gradient."""

COSINES = ("key_difference", "nearest_newer")
"""Key signals that are no z-scores: cosines, which differ by some hundredths within a head."""


@dataclass(frozen=True)
class TrainingConfig:
    """How numbers are trained."""

    steps: int = 800
    rate: float = 3e-3
    """Largest learning rate of a one-cycle schedule."""

    heads: int = 30
    """(Layer, head) pairs a step, all of one update of one prompt."""

    thinned: tuple[float, ...] = (1.0, 0.5, 0.3, 0.15)
    """Fractions of old tokens left, one drawn a step, as if the others had been evicted."""

    cosine_unit: float = 20.0
    """Weights of cosines move in steps so many times larger, as if their differences were as large as z-scores'."""

    key_first: float = 1.0
    """Weight of `key_difference` in the first scores, in units of `cosine_unit`: training begins as KeyDiff and learns
    what to change. 0 begins anywhere, half of the runs against the key. For scorer bam and NAMMs that read that key."""

    unseen: float = 0.3
    """Part of the heads whose spectra are hidden in a step, where keys are read too: no one signal is relied upon."""

    gain: float = 0.5
    """Deviation of the logarithm of a factor on each bin of a head's spectra, as if another model attended."""

    hold: float = 1.0
    """Pull of all numbers towards where they began, a step, beside the rate. Without it longer training unlearns what
    carries over."""

    orders: int = 1
    """Trainings from the same first numbers, each with an order of its own, whose numbers are averaged: what only one
    of them learned is mostly lost, and that is what does not carry over."""

    def __post_init__(self) -> None:
        if min(self.steps, self.heads, self.orders) < 1 or not self.thinned or not self.cosine_unit > 0:
            raise ConfigError(f"Expected steps, heads, orders, fractions and a unit above 0, found {self}.")
        if not 0 <= self.unseen < 1 or not min(self.gain, self.key_first, self.hold) >= 0:
            raise ConfigError(f"Expected a part below 1, and a deviation, weight and pull of 0 or more, found {self}.")
        if self.hold * self.rate > 1:
            raise ConfigError(f"Expected a pull of at most 1 / rate ({1 / self.rate:g}), found {self.hold}.")


@dataclass(frozen=True)
class Trained:
    """What training came to."""

    flat: Float[Tensor, " params"]
    losses: tuple[float, ...]
    """Mean of each hundred steps: nats below 0 are what the scores know of the worth."""


def train(namm: NAMM, shelves: Sequence[Sequence[Recording]], config: TrainingConfig, seed: int) -> Trained:
    """Numbers that foresee worth.

    Args:
        namm: Features, scorer and first numbers; all zeros are replaced by small random ones.
        shelves: Recordings, a list a source; steps take sources in turn.
        config: How.
        seed: Decides first numbers and orders.
    """
    draw = torch.Generator().manual_seed(seed)
    unit = units(namm, config.cosine_unit)
    first = _first(namm, draw, unit, config.key_first)
    found, losses = [], []
    for order in range(config.orders):
        if order:
            draw = torch.Generator().manual_seed(int(np.random.default_rng([seed, order]).integers(2**62)))
        pick = np.random.default_rng([seed, 11, order] if order else [seed, 11])
        weights, each = _in_one_order(namm, shelves, config, first, unit, draw, pick)
        found.append(weights)
        losses.append(each)
    hundreds = range(0, config.steps, 100)
    means = (float(np.mean([each[start : start + 100] for each in losses])) for start in hundreds)
    return Trained(torch.stack(found).mean(0) * unit, tuple(means))


def _in_one_order(
    namm: NAMM,
    shelves: Sequence[Sequence[Recording]],
    config: TrainingConfig,
    first: Float[Tensor, " params"],
    unit: Float[Tensor, " params"],
    draw: torch.Generator,
    pick: np.random.Generator,
) -> tuple[Float[Tensor, " params"], list[float]]:
    """Numbers in their units after all steps, and the loss of each step."""
    weights = torch.nn.Parameter(first.clone())
    optimizer = torch.optim.Adam([weights], lr=config.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.rate, total_steps=config.steps, pct_start=0.1)
    losses: list[float] = []
    for step in range(config.steps):
        shelf = shelves[step % len(shelves)]
        recording = shelf[int(pick.integers(len(shelf)))]
        update = recording.updates[int(pick.integers(len(recording.updates)))]
        heads = torch.randperm(update.positions[..., 0].numel(), generator=draw)[: config.heads]
        batch = batch_of(namm, recording, update, heads, float(pick.choice(config.thinned)), draw)
        disturb(batch.features, namm.config, config, draw)
        candidate = torch.zeros(len(batch.features), dtype=torch.long)
        scores = namm.scorer((weights * unit)[None], batch.features, batch.valid, candidate)[batch.valid]
        loss = _beside_even(scores, batch.worth[batch.valid])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([weights], 1.0)
        optimizer.step()
        weights.data.lerp_(first, config.hold * schedule.get_last_lr()[0])
        schedule.step()
        losses.append(loss.item())
    return weights.detach(), losses


def _beside_even(scores: Float[Tensor, " tokens"], worth: Float[Tensor, " tokens"]) -> Float[Tensor, ""]:
    """Cross-entropy of shares of worth under the softmax of scores, less that of equal shares: 0 knows nothing."""
    share = worth / worth.sum().clamp_min(1e-12)
    return -(share * scores.log_softmax(0)).sum() - math.log(len(scores))


def units(namm: NAMM, cosine_unit: float) -> Float[Tensor, " params"]:
    """What a step of each number is multiplied by, as if cosines were so many times larger and weights smaller."""
    unit = torch.ones(namm.scorer.params)
    parts = {name: part[0] for name, part in namm.scorer.unpack(unit[None]).items()}
    first = namm.config.recency_dim + namm.config.bins
    for column in [first + place for place, name in enumerate(namm.config.of_keys) if name in COSINES]:
        for name in ("qkv_weight", "score_weight") if namm.config.scorer == "bam" else ("hidden_weight",):
            parts[name][column] = cosine_unit
        if namm.config.scorer == "bam":  # what attention adds to the signal is in the signal's unit
            parts["out_weight"][:, column] = 1 / cosine_unit
            parts["out_bias"][column] = 1 / cosine_unit
    return unit


def disturb(
    features: Float[Tensor, "heads 1 slots features"],
    constants: NAMMConfig,
    config: TrainingConfig,
    draw: torch.Generator,
) -> None:
    """Hides some heads' spectra and stretches the bins of all, in place: what only one model's attention shows.

    Args:
        features: What a NAMM is shown, spectra as z-scores.
        constants: Which of them are spectra.
        config: How many, and how much.
        draw: Decides which.
    """
    spectra = features[..., constants.recency_dim : constants.recency_dim + constants.bins]
    if config.unseen and constants.of_keys:
        spectra.mul_(torch.rand(len(features), 1, 1, 1, generator=draw) >= config.unseen)
    if config.gain:
        spectra.mul_((config.gain * torch.randn(len(features), 1, 1, constants.bins, generator=draw)).exp())


def _first(namm: NAMM, draw: torch.Generator, unit: Float[Tensor, " params"], key: float) -> Float[Tensor, " params"]:
    if bool(namm.flat.any()):
        return namm.flat / unit
    flat = torch.randn(namm.scorer.params, generator=draw) * START_SPREAD
    parts = namm.scorer.unpack(flat[None])
    for name, part in parts.items():
        if name.endswith("bias"):
            part.zero_()
    if key and "key_difference" in namm.config.of_keys and namm.config.scorer == "bam":
        place = namm.config.recency_dim + namm.config.bins + namm.config.of_keys.index("key_difference")
        parts["score_weight"][0, place] = key
    return flat


def shifted(namm: NAMM, by: float) -> NAMM:
    """The same NAMM with another threshold: every score less `by`.

    Args:
        namm: Its scorer ends in one bias.
        by: What a token must have scored before to be at 0 now.
    """
    flat = namm.flat.clone()
    namm.scorer.unpack(flat[None])["score_bias"].sub_(by)
    return NAMM(namm.config, flat, namm.statistics)


def fresh(config: NAMMConfig, statistics: FeatureStatistics) -> NAMM:
    """A NAMM of zeros that is to be trained.

    Args:
        config: Its constants.
        statistics: Of all bins of a spectrum; those that it does not see are left out.
    """
    bins = config.bins
    return NAMM(config, None, FeatureStatistics(statistics.mean[:, :bins], statistics.deviation[:, :bins]))
