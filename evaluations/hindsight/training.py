"""Trains a NAMM's numbers by gradient on recordings: which tokens will turn out to be worth most.

A token's worth is compared with a few levels, those that the most worthy 3, 10, 20 and 40% of a source's tokens reach
whatever their layer and head, and the one score must say all of it (ordinal regression). So one threshold divides
tokens over heads by worth. Each source has levels of its own, because worths have no common unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from evaluations.hindsight.recording import KEYS, Recording, Seen
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.features import FeatureStatistics, RunningStatistics, sequence_statistics

FIRST_OFFSETS = (3.0, 2.0, 1.2, 0.3)
"""Where the levels' offsets begin, highest level first."""

START_SPREAD = 0.05
"""Deviation of the first weights; zeros would have no gradient."""

SAMPLED = 97
"""Of so many worths one is looked at for a source's levels."""


@dataclass(frozen=True)
class TrainingConfig:
    """How numbers are trained."""

    steps: int = 1000
    rate: float = 3e-3
    """Largest learning rate of a one-cycle schedule."""

    heads: int = 30
    """(Layer, head) pairs a step, all of one update of one prompt."""

    levels: tuple[float, ...] = (0.03, 0.1, 0.2, 0.4)
    """Fractions of a source's tokens that reach each level."""

    thinned: tuple[float, ...] = (1.0, 0.5, 0.3, 0.15)
    """Of full-cache recordings: fractions of old tokens left, one drawn a step, as if the others had been evicted."""

    def __post_init__(self) -> None:
        if len(self.levels) != len(FIRST_OFFSETS) or sorted(self.levels) != list(self.levels):
            raise ConfigError(f"Expected {len(FIRST_OFFSETS)} levels, smallest fraction first, found {self.levels}.")


@dataclass(frozen=True)
class Batch:
    """Some heads of one update."""

    features: Float[Tensor, "heads 1 slots features"]
    valid: Bool[Tensor, "heads 1 slots"]
    worth: Float[Tensor, "heads 1 slots"]


@dataclass(frozen=True)
class Trained:
    """What training came to."""

    flat: Float[Tensor, " params"]
    losses: tuple[float, ...]
    """Mean of each hundred steps."""


def spectrum_statistics(shelves: Sequence[Sequence[Recording]]) -> FeatureStatistics:
    """Pooled statistics of everything recorded, as a checkpoint holds them."""
    running: RunningStatistics | None = None
    for recording in (recording for shelf in shelves for recording in shelf):
        for update in recording.updates:
            running = running or RunningStatistics(1, update.spectrum.shape[-1])
            running.add(0, update.spectrum[update.positions >= 0].float())
    assert running is not None  # there is something to train on
    return running.pooled()


def batch_of(
    namm: NAMM,
    recording: Recording,
    update: Seen,
    heads: Int[Tensor, " heads"],
    left: float = 1.0,
    draw: torch.Generator | None = None,
) -> Batch:
    """Some heads of an update as the NAMM would see them, under the statistics of each sequence.

    Args:
        namm: Whose features are made.
        recording: Of which the update is one.
        update: What was seen.
        heads: Places among all layers' heads.
        left: Fraction of the old tokens that is kept, the worthier the more likely.
        draw: Decides which.
    """
    positions, worth = update.positions.flatten(0, 1)[heads].long(), recording.label(update).flatten(0, 1)[heads]
    spectrum = update.spectrum.flatten(0, 1)[heads].float()[..., : namm.config.bins]
    wanted = [KEYS.index(name) for name in namm.config.of_keys]
    of_keys = update.of_keys.flatten(0, 1)[heads].float()[..., wanted]
    if left < 1.0:
        chosen = _thinned(positions, worth, update.seen, left, draw)
        positions, worth = positions.gather(1, chosen), worth.gather(1, chosen)
        spectrum, of_keys = (
            part.gather(1, chosen.unsqueeze(-1).expand(-1, -1, part.shape[-1])) for part in (spectrum, of_keys)
        )
    valid = (positions >= 0).unsqueeze(1)
    age = (update.seen - 1 - positions).clamp(0, update.seen).unsqueeze(1)
    spectrum, of_keys = spectrum.unsqueeze(1), of_keys.unsqueeze(1)
    mean, deviation = sequence_statistics(spectrum, valid)
    features = namm.token_features(spectrum, age, mean, deviation, of_keys if wanted else None)
    return Batch(features, valid, worth.unsqueeze(1))


def _thinned(
    positions: Int[Tensor, "heads slots"],
    worth: Float[Tensor, "heads slots"],
    seen: int,
    left: float,
    draw: torch.Generator | None,
) -> Int[Tensor, "heads few"]:
    """Places of the tokens that are left, in order; the newest sixteenth is not thinned."""
    slots = positions.shape[1]
    old = slots - max(16, slots // 16)
    count = max(16, round(left * old))
    rank = (worth[:, :old] + 1e-6).log()
    noise = torch.randn(rank.shape, generator=draw)
    rank = rank + noise * rank.std(-1, keepdim=True)
    some = rank.topk(min(count, old), -1).indices.sort(-1).values
    return torch.cat([some, torch.arange(old, slots).expand(len(positions), -1)], -1)


def _levels(shelf: Sequence[Recording], fractions: Sequence[float]) -> Float[Tensor, " levels"]:
    """The worths that so many of a source's tokens reach."""
    worths = [
        recording.label(update)[update.positions >= 0][::SAMPLED] for recording in shelf for update in recording.updates
    ]
    joined = torch.cat(worths).numpy()
    return torch.tensor([float(np.quantile(joined, 1 - fraction)) for fraction in fractions])


def train(
    namm: NAMM,
    shelves: Sequence[Sequence[Recording]],
    config: TrainingConfig,
    seed: int,
    again: Sequence[Sequence[Recording]] | None = None,
) -> Trained:
    """Numbers that foresee worth.

    Args:
        namm: Features, scorer and first numbers; all zeros are replaced by small random ones.
        shelves: Full-cache recordings, a list a source; steps take sources in turn.
        config: How.
        seed: Decides first numbers and order.
        again: Recordings under an evicting policy, likewise; then every other step is on one of them.
    """
    draw, pick = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 11])
    levels = [_levels(shelf, config.levels) for shelf in shelves]
    flat = torch.nn.Parameter(_first(namm, draw))
    offsets, scale = torch.nn.Parameter(torch.tensor(FIRST_OFFSETS)), torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([{"params": [flat], "lr": config.rate}, {"params": [offsets, scale], "lr": 1e-2}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [config.rate, 1e-2], total_steps=config.steps, pct_start=0.1
    )
    losses: list[float] = []
    for step in range(config.steps):
        source, evicted = step % len(shelves), again is not None and (step // len(shelves)) % 2 == 1
        shelf = again[source] if evicted and again is not None else shelves[source]
        recording = shelf[int(pick.integers(len(shelf)))]
        update = recording.updates[int(pick.integers(len(recording.updates)))]
        heads = torch.randperm(update.positions[..., 0].numel(), generator=draw)[: config.heads]
        left = 1.0 if evicted else float(pick.choice(config.thinned))
        batch = batch_of(namm, recording, update, heads, left, draw)
        candidate = torch.zeros(len(batch.features), dtype=torch.long)
        scores = namm.scorer(flat[None], batch.features, batch.valid, candidate)[batch.valid]
        worth = batch.worth[batch.valid]
        logits = scores[:, None] * scale.exp() - offsets
        loss = binary_cross_entropy_with_logits(logits, (worth[:, None] > levels[source]).float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([flat], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    means = (float(np.mean(losses[start : start + 100])) for start in range(0, len(losses), 100))
    return Trained(flat.detach().clone(), tuple(means))


def _first(namm: NAMM, draw: torch.Generator) -> Float[Tensor, " params"]:
    if bool(namm.flat.any()):
        return namm.flat.clone()
    flat = torch.randn(namm.scorer.params, generator=draw) * START_SPREAD
    for name, part in namm.scorer.unpack(flat[None]).items():
        if name.endswith("bias"):
            part.zero_()
    return flat


@torch.inference_mode()
def scored(namm: NAMM, recording: Recording) -> list[tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]]:
    """Scores and worths of all tokens of each update."""
    found = []
    for update in recording.updates:
        count = update.positions[..., 0].numel()
        batch = batch_of(namm, recording, update, torch.arange(count))
        judge = torch.zeros(count, dtype=torch.long)
        scores = namm.scorer(namm.flat[None], batch.features, batch.valid, judge)
        found.append((scores[batch.valid], batch.worth[batch.valid]))
    return found


def caught(namm: NAMM, shelf: Sequence[Recording], kept: float) -> float:
    """Share of all worth that the best so many tokens of each update have, by one threshold over its heads.

    Args:
        namm: Scores the tokens.
        shelf: Recordings that it was not trained on.
        kept: Fraction of the tokens.
    """
    shares = []
    for recording in shelf:
        for scores, worth in scored(namm, recording):
            best = scores.topk(max(1, round(kept * len(scores)))).indices
            shares.append(float(worth[best].sum() / worth.sum().clamp_min(1e-12)))
    return float(np.mean(shares))


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
