"""Prompts that ask about one document are not independent: whoever draws one draws them all.

A cluster bootstrap: documents are drawn with replacement, each with all of its prompts in order, until there are as
many prompts as in the data; the last document is cut there. So every resample is an array of the data's own shape.
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
    """(1, trials), or (trials, 1) where each is a run of its own."""
    documents: np.ndarray
    """(trials,): the number of each one's document, from 0 without a gap."""

    def __post_init__(self) -> None:
        if self.documents.shape != (self.scores.size,) or 1 not in self.scores.shape:
            raise DataError(
                f"Expected scores (1, trials) or (trials, 1) and a document for each, found {self.scores.shape} and "
                f"{self.documents.shape}."
            )

    def indices(self, resamples: int, generator: np.random.Generator) -> np.ndarray:
        """(resamples, trials): the trials of each resample."""
        trials = self.scores.size
        order, counts = np.argsort(self.documents, kind="stable"), np.bincount(self.documents)
        starts = counts.cumsum() - counts
        most = -(-trials // int(counts.min()))  # so many documents are enough whichever are drawn
        drawn = generator.integers(len(counts), size=(resamples, most))
        sizes = counts[drawn]
        ends = np.minimum(sizes.cumsum(axis=1), trials)
        # the document at a place is the first that ends behind it
        marks = np.bincount(
            (np.arange(resamples)[:, None] * (trials + 1) + ends).ravel(), minlength=resamples * (trials + 1)
        )
        which = marks.reshape(resamples, trials + 1)[:, :trials].cumsum(axis=1)
        begins = np.take_along_axis(sizes.cumsum(axis=1) - sizes, which, axis=1)
        first = np.take_along_axis(starts[drawn], which, axis=1)
        return order[first + np.arange(trials) - begins]

    def sums(self) -> np.ndarray:
        """The sum of the scores of each document."""
        return np.bincount(self.documents, weights=self.scores.ravel())


Task = np.ndarray | Clustered
"""Scores (seeds, trials) of one task; clustered where trials share documents."""


def clustered(scores: np.ndarray, documents: Sequence[Hashable | None]) -> Task:
    """The scores of a task, clustered if any two of its trials share a document.

    Args:
        scores: (seeds, trials).
        documents: Of each trial, seed after seed; None for one that shares its with no other.
    """
    numbers: dict[Hashable, int] = {}
    keys = [("alone", place) if document is None else document for place, document in enumerate(documents)]
    codes = [numbers.setdefault(key, len(numbers)) for key in keys]
    if len(numbers) == scores.size:
        return scores
    return Clustered(scores.reshape(1, -1), np.array(codes))


def mapped(task: Task, function: Callable[[np.ndarray], np.ndarray]) -> Task:
    """The same trials with other scores, or in another shape."""
    return replace(task, scores=function(task.scores)) if isinstance(task, Clustered) else function(task)
