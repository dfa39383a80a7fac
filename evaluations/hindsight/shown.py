"""What a NAMM is shown of recordings, under the statistics of each sequence, and what it makes of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evaluations.hindsight.recording import KEYS, Recording, Seen
from namm import NAMM
from namm.features import FeatureStatistics, RunningStatistics, sequence_statistics


@dataclass(frozen=True)
class Batch:
    """Some heads of one update."""

    features: Float[Tensor, "heads 1 slots features"]
    valid: Bool[Tensor, "heads 1 slots"]
    worth: Float[Tensor, "heads 1 slots"]


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
    features, valid = shown(namm, positions, spectrum, of_keys, update.seen)
    return Batch(features, valid, worth.unsqueeze(1))


def shown(
    namm: NAMM,
    positions: Int[Tensor, "heads slots"],
    spectrum: Float[Tensor, "heads slots bins"],
    of_keys: Float[Tensor, "heads slots signals"],
    seen: int,
) -> tuple[Float[Tensor, "heads 1 slots features"], Bool[Tensor, "heads 1 slots"]]:
    """What a NAMM is shown of some heads under the statistics of each sequence, and which slots hold a token.

    Args:
        namm: Whose features are made.
        positions: Of the tokens, -1 in unused slots.
        spectrum: What was seen of attention.
        of_keys: The key signals that it reads.
        seen: Tokens read by then.
    """
    valid = (positions >= 0).unsqueeze(1)
    age = (seen - 1 - positions).clamp(0, seen).unsqueeze(1)
    spectrum = spectrum.unsqueeze(1)
    mean, deviation = sequence_statistics(spectrum, valid)
    signals = of_keys.unsqueeze(1) if of_keys.shape[-1] else None
    return namm.token_features(spectrum, age, mean, deviation, signals), valid


def scores_of(namm: NAMM, flat: Float[Tensor, " params"], update: Seen) -> Float[Tensor, "layers kv_heads slots"]:
    """What these numbers would give the tokens of an update under the statistics of each sequence.

    Args:
        namm: Whose features are made, from exactly the key signals that were recorded.
        flat: The numbers, in place of the NAMM's.
        update: What was seen; unused slots have scores without meaning.
    """
    positions = update.positions.flatten(0, 1).long()
    spectrum = update.spectrum.flatten(0, 1).float()[..., : namm.config.bins]
    features, valid = shown(namm, positions, spectrum, update.of_keys.flatten(0, 1).float(), update.seen)
    judge = torch.zeros(len(features), dtype=torch.long)
    return namm.scorer(flat[None], features, valid, judge).view(update.positions.shape)


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
