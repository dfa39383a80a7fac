"""Training rows for a recall model: endless streams with a loss on nearly every slot, recall prompts, and plain text.

The streams are what a small model learns recall from (one question per prompt is not): keys come from a few active
ones, and every value whose key was seen before is predicted; likewise spans that return and chains of assignments.
Positions jump at random, so that a model trained on short rows has seen the relative distances of long contexts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluations.tasks.recall.corpus import RecallVocabulary
from evaluations.tasks.recall.filler import Filler, hide
from evaluations.tasks.recall.tasks import IGNORED, SEEDS_PER_SPLIT, TextTask, train_seed

MAXIMUM_JUMPS = 3


@dataclass(frozen=True)
class Rows:
    """A training batch; targets say what follows each token."""

    ids: np.ndarray
    """int64 [rows, tokens]"""
    recall: np.ndarray
    """What can be known by recall alone, int64 [rows, tokens], -100 elsewhere."""
    text: np.ndarray
    """The next token within real text, int64 [rows, tokens], -100 elsewhere and where recall is asked."""
    positions: np.ndarray
    """Increasing position ids, int64 [rows, tokens]"""


def stream_row(
    rng: np.random.Generator,
    vocabulary: RecallVocabulary,
    tokens: int,
    active: int,
    filler: Filler,
    filler_fraction: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One row of (key, value) slots drawn from `active` keys, hidden in filler, and its recall targets.

    Returns:
        `(ids, recall)`, both int64 [tokens].
    """
    slots = max(1, int((tokens - 1) * (1.0 - filler_fraction)) // 2)
    keys, values = rng.permutation(vocabulary.keys)[:active], rng.permutation(vocabulary.values)[:active]
    drawn = rng.integers(0, active, slots)
    items = np.stack([keys[drawn], values[drawn]], axis=1)
    seen = np.ones(slots, dtype=bool)
    seen[np.unique(drawn, return_index=True)[1]] = False
    if filler_fraction > 0:
        ids, starts = filler.draw(rng, tokens - 1 - 2 * slots)
        ids, first = hide(rng, ids, starts, list(items))
    else:
        padding = rng.choice(vocabulary.noises, tokens - 1 - 2 * slots)
        ids, first = np.concatenate([padding, items.ravel()]), len(padding) + 2 * np.arange(slots)
    ids = np.concatenate([[vocabulary.begin], ids])
    recall = np.full(tokens, IGNORED, dtype=np.int64)
    recall[1 + first[seen]] = items[seen, 1]
    return ids, recall


def spans_row(
    rng: np.random.Generator, vocabulary: RecallVocabulary, tokens: int, filler: Filler, filler_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """One row of marked, named spans that come again and again, in filler; each token of a known span is a target.

    Spans are passkeys (values), noise or filler, 4 to 14 tokens.

    Returns:
        `(ids, recall)`, both int64 [tokens].
    """
    room = max(24, int((tokens - 1) * (1.0 - filler_fraction)))
    names = rng.permutation(vocabulary.keys)[: rng.integers(2, 5)]
    spans = [_named_span(rng, vocabulary, name, filler) for name in names]
    items, known = [], set()
    targets = []
    while room >= len(spans[drawn := int(rng.integers(len(spans)))]):
        span = spans[drawn]
        items.append(span)
        targets.append(
            np.where(np.arange(1, len(span) + 1) > 2, span, IGNORED) if drawn in known else np.full(len(span), IGNORED)
        )
        known.add(drawn)
        room -= len(span)
    return _hidden(rng, vocabulary, tokens, filler, items, targets)


def _named_span(rng: np.random.Generator, vocabulary: RecallVocabulary, name: int, filler: Filler) -> np.ndarray:
    length = int(rng.integers(4, 15))
    if rng.random() < 0.4:
        return np.concatenate([[vocabulary.passkey, name], rng.permutation(vocabulary.values)[: min(length, 6)]])
    if rng.random() < 0.5:
        return np.concatenate([[vocabulary.span, name], rng.choice(vocabulary.noises, length), [vocabulary.span]])
    return np.concatenate([[vocabulary.span, name], filler.draw(rng, length)[0], [vocabulary.span]])


def chains_row(
    rng: np.random.Generator, vocabulary: RecallVocabulary, tokens: int, filler: Filler, filler_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """One row of assignments x = value, y = x, and questions about x and y as soon as they are known, each asked once.

    Returns:
        `(ids, recall)`, both int64 [tokens].
    """
    statement = 3
    chains = int(np.clip((tokens - 1) * (1.0 - filler_fraction) // (4 * statement), 1, 24))
    names = rng.choice(vocabulary.keys, (chains, 2), replace=False)
    values = rng.choice(vocabulary.values, chains, replace=False)
    # Each chain has four events at sorted random times: x = v, y = x, and the questions about x and y.
    times = np.sort(rng.random((chains, 4)), axis=1)
    events = sorted((times[chain, event], chain, event) for chain in range(chains) for event in range(4))
    items, targets = [], []
    for _, chain, event in events:
        (x, y), value = names[chain], values[chain]
        if chain % 2:  # in every other chain x is asked before y is assigned
            words = (
                (vocabulary.let, x, value),
                (vocabulary.ask, x, value),
                (vocabulary.let, y, x),
                (vocabulary.ask, y, value),
            )
        else:
            words = (
                (vocabulary.let, x, value),
                (vocabulary.let, y, x),
                (vocabulary.ask, y, value),
                (vocabulary.ask, x, value),
            )
        items.append(np.array(words[event]))
        asks = words[event][0] == vocabulary.ask
        targets.append(np.array([IGNORED, IGNORED, value if asks else IGNORED]))
    return _hidden(rng, vocabulary, tokens, filler, items, targets)


def _hidden(
    rng: np.random.Generator,
    vocabulary: RecallVocabulary,
    tokens: int,
    filler: Filler,
    items: list[np.ndarray],
    own: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Items hidden in filler, and targets from `own`: each item's tokens that are asked, -100 for the others."""
    ids, starts = filler.draw(rng, tokens - 1 - sum(len(item) for item in items))
    ids, first = hide(rng, ids, starts, items)
    recall = np.full(tokens, IGNORED, dtype=np.int64)
    for begin, target in zip(first, own, strict=True):
        recall[begin : begin + len(target)] = target  # <begin> comes first: one before the item
    return np.concatenate([[vocabulary.begin], ids]), recall


def task_row(task: TextTask, rng: np.random.Generator, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """One training prompt of `task` with its question, `tokens` long in all.

    Returns:
        `(ids, recall)`, both int64 [tokens].
    """
    seed = train_seed(int(rng.integers(SEEDS_PER_SPLIT)))
    question_tokens = task.sample(1, tokens, seed).question.shape[1]
    prompt = task.sample(1, tokens - question_tokens, seed)
    question, target = prompt.question[0].numpy(), prompt.target[0].numpy()
    # Near a task's size steps a shorter context may ask less: then the row is cut to the end.
    ids = np.concatenate([prompt.context[0].numpy(), question])
    recall = np.concatenate([np.full(prompt.context.shape[1], IGNORED), target])
    missing = tokens - len(ids)
    return np.pad(ids, (0, missing), constant_values=ids[0]), np.pad(recall, (0, missing), constant_values=IGNORED)


def text_row(rng: np.random.Generator, vocabulary: RecallVocabulary, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """One row of plain training text, without recall targets."""
    ids, _ = vocabulary.text("train").cut(rng, tokens - 1)
    ids = np.concatenate([[vocabulary.begin], ids, np.full(tokens - 1 - len(ids), vocabulary.pad)])
    return ids, np.full(tokens, IGNORED, dtype=np.int64)


def text_targets(ids: np.ndarray, recall: np.ndarray, vocabulary: RecallVocabulary) -> np.ndarray:
    """The next token wherever it and this one are real text and recall does not ask already."""
    following = np.concatenate([ids[:, 1:], np.full((len(ids), 1), vocabulary.pad)], axis=1)
    both = (ids < vocabulary.begin) & (following < vocabulary.pad) & (ids != vocabulary.pad) & (recall == IGNORED)
    return np.where(both, following, IGNORED)


def jumping_positions(rng: np.random.Generator, rows: int, tokens: int, span: int) -> np.ndarray:
    """Position ids that skip up to `span - tokens` positions in three jumps a row; half the rows stay contiguous."""
    positions = np.tile(np.arange(tokens), (rows, 1))
    if span <= tokens:
        return positions
    for row in positions[rows // 2 :]:
        total = rng.integers(0, span - tokens + 1)
        places = np.sort(rng.integers(1, tokens, MAXIMUM_JUMPS))
        parts = rng.dirichlet(np.ones(MAXIMUM_JUMPS)) * total
        for place, part in zip(places, parts.astype(np.int64), strict=True):
            row[place:] += part
    return positions
