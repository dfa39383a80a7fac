"""Trials that ask about one document are not independent: whoever draws one draws them all.

A cluster bootstrap: as many documents as there are, drawn with replacement, each with all of its trials. Resamples
therefore differ in their number of trials, and every statistic is one of weighted trials. No document is cut to keep
the number: where one has most of the trials that covers next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from namm.errors import DataError


@dataclass(frozen=True)
class Clustered:
    """Scores of one task, of which some are about the same document."""

    scores: np.ndarray
    """(seeds, trials)."""
    documents: np.ndarray
    """(seeds, trials): the number of each one's document, from 0 without a gap; seeds may share documents."""

    def __post_init__(self) -> None:
        if self.documents.shape != self.scores.shape:
            raise DataError(
                f"Expected a document for each of the scores {self.scores.shape}, found {self.documents.shape}."
            )

    @property
    def count(self) -> int:
        """Documents."""
        return int(self.documents.max()) + 1

    def counts(self, resamples: int, generator: np.random.Generator) -> np.ndarray:
        """(resamples, seeds * trials): how often each trial is in a resample."""
        return self._drawn(resamples, generator)[:, self.documents.ravel()]

    def runs(self, resamples: int, generator: np.random.Generator) -> np.ndarray:
        """(resamples, seeds): the mean of each seed; of all seeds, where none of its own documents was drawn."""
        drawn = self._drawn(resamples, generator)
        sums, sizes = drawn @ self._by_seed(self.scores), drawn @ self._by_seed(np.ones_like(self.scores))
        pooled = sums.sum(axis=1, keepdims=True) / sizes.sum(axis=1, keepdims=True)
        return np.where(sizes > 0, sums / np.maximum(sizes, 1.0), pooled)

    def sums(self) -> np.ndarray:
        """The sum of the scores of each document."""
        return self._by_seed(self.scores).sum(axis=1)

    def _drawn(self, resamples: int, generator: np.random.Generator) -> np.ndarray:
        """(resamples, documents): how often each document is drawn."""
        shares = np.full(self.count, 1.0 / self.count)
        return generator.multinomial(self.count, shares, size=resamples).astype(float)

    def _by_seed(self, values: np.ndarray) -> np.ndarray:
        """(documents, seeds): sums of one value a trial."""
        found = np.zeros((self.count, len(values)))
        np.add.at(found, (self.documents, np.arange(len(values))[:, None]), values)
        return found


Task = np.ndarray | Clustered
"""Scores (seeds, trials) of one task; clustered where trials share documents."""


def numbered(documents: Sequence[Hashable | None]) -> list[int]:
    """The number of each trial's document, from 0 in the order in which they appear; one that has none stands alone."""
    numbers: dict[Hashable, int] = {}
    keys = [("alone", place) if document is None else document for place, document in enumerate(documents)]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def clustered(scores: np.ndarray, documents: Sequence[Hashable | None]) -> Task:
    """The scores of a task, clustered if any two of its trials share a document.

    Args:
        scores: (seeds, trials).
        documents: Of each trial, seed after seed; None for one that shares its with no other.
    """
    codes = numbered(documents)
    if len(set(codes)) == scores.size:
        return scores
    return Clustered(scores, np.array(codes).reshape(scores.shape))


def mapped(task: Task, function: Callable[[np.ndarray], np.ndarray]) -> Task:
    """The same trials with other scores."""
    return replace(task, scores=function(task.scores)) if isinstance(task, Clustered) else function(task)
