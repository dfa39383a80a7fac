"""Filler to hide evidence in: runs of random noise tokens alternating with runs of real text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluations.tasks.recall.corpus import RecallVocabulary, TokenStream

RUN_TOKENS = 48
"""Mean length of a run of noise plus the run of text that follows it."""


@dataclass(frozen=True)
class Filler:
    """Draws filler of any length."""

    vocabulary: RecallVocabulary
    """Supplies the noise tokens."""
    stream: TokenStream
    """Supplies the real text: the documents of one split."""
    text_fraction: float
    """Expected part of the filler that is real text, 0 to 1."""

    def draw(self, rng: np.random.Generator, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Exactly `tokens` ids of filler, and where something may be inserted.

        Returns:
            `(ids, starts)`: int64 [tokens], and bool [tokens + 1], True where an insertion before that index tears no
            word apart.
        """
        ids, starts = np.empty(tokens, dtype=np.int64), np.ones(tokens + 1, dtype=bool)
        filled, in_text = 0, bool(rng.random() < self.text_fraction)
        while filled < tokens:
            left = tokens - filled
            if in_text:
                run, flags = self.stream.cut(rng, min(left, self._text_length(rng, left)))
                ids[filled : filled + len(run)], starts[filled : filled + len(run)] = run, flags
                filled += len(run)
            else:
                length = min(left, 1 + int(rng.exponential(RUN_TOKENS * (1.0 - self.text_fraction))))
                ids[filled : filled + length] = rng.choice(self.vocabulary.noises, length)
                filled += length
            in_text = not in_text
        return ids, starts

    def _text_length(self, rng: np.random.Generator, left: int) -> int:
        if self.text_fraction >= 1.0:
            return left
        return 0 if self.text_fraction <= 0.0 else 1 + int(rng.exponential(RUN_TOKENS * self.text_fraction))


def hide(
    rng: np.random.Generator, ids: np.ndarray, starts: np.ndarray, items: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Inserts items, in order, at random allowed places of the filler.

    Args:
        rng: source of the places.
        ids: filler, int64 [tokens].
        starts: allowed insertion points, bool [tokens + 1].
        items: runs of ids, kept whole.

    Returns:
        `(ids, first)`: int64 [tokens + all items], and the index of each item's first token, int64 [items].
    """
    if not items:
        return ids, np.empty(0, dtype=np.int64)
    lengths = np.array([len(item) for item in items])
    gaps = np.sort(rng.choice(np.flatnonzero(starts), len(items)))
    before = np.concatenate([[0], np.cumsum(lengths)])
    first = gaps + before[:-1]
    mixed = np.empty(len(ids) + before[-1], dtype=np.int64)
    filler_places = np.arange(len(ids))
    mixed[filler_places + before[np.searchsorted(gaps, filler_places, side="right")]] = ids
    mixed[np.concatenate([begin + np.arange(length) for begin, length in zip(first, lengths, strict=True)])] = (
        np.concatenate(items)
    )
    return mixed, first
