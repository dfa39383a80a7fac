"""Candidates of one size: each gets the threshold under which as many tokens stand as stood under the start's.

What is kept under a threshold is steep in the numbers, so candidates around a start keep a fifth more or less by
chance, and a fitness then mostly says by how much. Here the start's threshold is found once for a source, by reading;
what it saw there is kept, and a candidate's threshold is the score that as many of those tokens reach. That needs no
reading, so whole populations are sized in seconds. It holds sizes nearly: what goes changes what is seen next, so the
further candidates are from the start, the further their sizes drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluations.hindsight.recording import Seen, seen_under
from evaluations.hindsight.shown import shown
from evaluations.tasks.lessons import Lesson
from namm import NAMM

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UPDATES = 4
"""Updates of a prompt at which tokens are counted."""

TOGETHER = 16
"""Heads of like size that are scored in one call."""


class EqualSize:
    """The sizes of candidates on one source."""

    def __init__(self, model: PreTrainedModel, lessons: Sequence[Lesson], start: NAMM, threshold: float) -> None:
        """Sees what stands under the start's threshold.

        Args:
            model: The source.
            lessons: Prompts, of which no answer is asked.
            start: A NAMM that reads the statistics of each sequence.
            threshold: At which it keeps there what is wanted.
        """
        self._start = start
        self._heads = [
            shown_together
            for lesson in lessons
            for update in seen_under(model, lesson, start, "sequence", UPDATES, threshold, start.config.of_keys)[0]
            for shown_together in _of_like_size(start, update)
        ]
        self._standing = int((self._scores(start.flat) >= threshold).sum())

    def sized(self, candidates: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """The candidates with their thresholds moved to 0."""
        moved = candidates.clone()
        for row in moved:
            ranked = self._scores(row).sort(descending=True).values
            self._start.scorer.unpack(row[None])["score_bias"].sub_(ranked[max(0, self._standing - 1)])
        return moved

    @torch.no_grad()
    def _scores(self, flat: Float[Tensor, " params"]) -> Float[Tensor, " tokens"]:
        """What these numbers give all tokens that were seen."""
        scorer, found = self._start.scorer, []
        for features, valid in self._heads:
            judge = torch.zeros(len(features), dtype=torch.long)
            found.append(scorer(flat[None], features, valid, judge)[valid])
        return torch.cat(found)


def _of_like_size(
    namm: NAMM, update: Seen
) -> Iterator[tuple[Float[Tensor, "heads 1 slots features"], Bool[Tensor, "heads 1 slots"]]]:
    """What the NAMM is shown at an update, some heads at a time: one that holds all there is would stretch the others.

    Unused slots stand before the oldest token and are left out.
    """
    parts = (update.positions.long(), update.spectrum.float()[..., : namm.config.bins], update.of_keys.float())
    positions, spectrum, of_keys = (part.flatten(0, 1) for part in parts)
    held = (positions >= 0).sum(-1)
    for heads in held.argsort().split(TOGETHER):
        newest = slice(positions.shape[1] - int(held[heads].max()), None)
        yield shown(namm, positions[heads, newest], spectrum[heads, newest], of_keys[heads, newest], update.seen)
