"""Long-context recall in filler: what a memory must hold while it does not yet know what will be asked.

A prompt is a long context with a little evidence in it (random noise tokens and real text are the rest) and a question
part that is fed afterwards, teacher forced. The cache is evicted while the context is read, so a good memory keeps the
evidence and drops the filler. Each task hides another kind of evidence; `TASKS` holds them by name. Seeds come in three
disjoint namespaces (`train_seed`, `validation_seed`, `test_seed`), which also read disjoint documents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from inspect import isabstract
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from evaluations.tasks.outside import GROUP, is_task
from evaluations.tasks.recall.corpus import RecallVocabulary, Split, default_vocabulary
from evaluations.tasks.recall.filler import Filler, hide
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.outside import Registry

IGNORED = -100
"""Target where nothing is asked, as in Hugging Face losses."""

MINIMUM_CONTEXT = 64
"""Shortest context, in tokens."""

SEEDS_PER_SPLIT = 2**30
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def train_seed(index: int) -> int:
    """The seed of training draw `index` (0 <= index < 2**30)."""
    return _seed("train", index)


def validation_seed(index: int) -> int:
    """The seed of validation draw `index`: for choosing between candidates and recipes."""
    return _seed("validation", index)


def test_seed(index: int) -> int:
    """The seed of test draw `index`: for numbers that are reported, never for a choice."""
    return _seed("test", index)


test_seed.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  (pytest would collect it)


def _seed(split: Split, index: int) -> int:
    if not 0 <= index < SEEDS_PER_SPLIT:
        raise ConfigError(f"expected a seed index from 0 to 2**30 - 1, found {index}; use a smaller index")
    return _SPLITS.index(split) * SEEDS_PER_SPLIT + index


def split_of_seed(seed: int) -> Split:
    """The split a seed belongs to.

    Raises:
        ConfigError: if the seed lies in no namespace.
    """
    if not 0 <= seed < len(_SPLITS) * SEEDS_PER_SPLIT:
        raise ConfigError(
            f"expected a seed from train_seed, validation_seed or test_seed, found {seed}; make it with one of them"
        )
    return _SPLITS[seed // SEEDS_PER_SPLIT]


@dataclass(frozen=True)
class TextPrompts:
    """A batch of prompts of equal length."""

    context: Int64[Tensor, "prompts context_tokens"]
    """Read first; the cache is evicted while reading it."""
    question: Int64[Tensor, "prompts question_tokens"]
    """Fed afterwards, teacher forced: it holds the true answers after each thing asked."""
    target: Int64[Tensor, "prompts question_tokens"]
    """The token to predict AFTER question[:, i]; -100 where nothing is asked."""


@dataclass(frozen=True)
class Evidence:
    """What one prompt hides, and how it is asked for."""

    items: list[np.ndarray]
    """Runs of ids to be hidden, in order of appearance; a run is never torn apart."""
    question: np.ndarray
    """Ids of the question part, int64 [question_tokens]."""
    asked: np.ndarray
    """Where the NEXT question token has to be predicted, bool [question_tokens]."""


@dataclass(frozen=True)
class TextTask(ABC):
    """One kind of evidence in filler. Subclasses say what is hidden (`evidence`)."""

    vocabulary: RecallVocabulary | None = field(default=None, repr=False)
    """Tokens and real text; None means those of the shipped checkpoint."""
    text_fraction: float = 0.5
    """Part of the filler that is real text; the rest is noise tokens."""

    name = ""

    @abstractmethod
    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        """Draws the evidence of one prompt; question_tokens may depend on `context_tokens` only."""

    def sample(self, prompts: int, context_tokens: int, seed: int) -> TextPrompts:
        """Draws prompts; the same arguments give the same prompts.

        Args:
            prompts: how many, at least 1.
            context_tokens: length of every context, at least 64.
            seed: from `train_seed`, `validation_seed` or `test_seed`; also decides which documents are read.

        Raises:
            ConfigError: if a number is out of its range.
        """
        if prompts < 1 or context_tokens < MINIMUM_CONTEXT:
            raise ConfigError(
                f"expected at least 1 prompt and {MINIMUM_CONTEXT} context tokens, "
                f"found {prompts} and {context_tokens}; raise them"
            )
        split = split_of_seed(seed)
        vocabulary = self.vocabulary or default_vocabulary()
        filler = Filler(vocabulary, vocabulary.text(split), self.text_fraction)
        rng = np.random.default_rng([crc32(self.name.encode()), context_tokens, seed])
        rows = [self._prompt(rng, vocabulary, context_tokens, filler) for _ in range(prompts)]
        context, question, target = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return TextPrompts(context, question, target)

    def _prompt(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        evidence = self.evidence(rng, vocabulary, context_tokens, filler)
        hidden = sum(len(item) for item in evidence.items)
        if hidden >= context_tokens:
            raise ConfigError(
                f"expected evidence that fits {context_tokens} context tokens, found {hidden} tokens of it in task "
                f"{self.name!r}; take a longer context or hide less"
            )
        ids, starts = filler.draw(rng, context_tokens - 1 - hidden)
        context, _ = hide(rng, ids, starts, evidence.items)
        question = evidence.question
        following = np.append(question[1:], IGNORED)
        target = np.where(evidence.asked, following, IGNORED)
        return np.concatenate([[vocabulary.begin], context]), question, target


def statements(items: list[np.ndarray], ask: list[np.ndarray], answer: list[np.ndarray]) -> Evidence:
    """Evidence whose questions are `ask` runs, each followed by its `answer` run, of which every token is asked."""
    question = np.concatenate([run for pair in zip(ask, answer, strict=True) for run in pair])
    asked = [np.arange(len(a) + len(b)) >= len(a) for a, b in zip(ask, answer, strict=True)]
    return Evidence(items, question, np.append(np.concatenate(asked)[1:], False))


@dataclass(frozen=True)
class Pairs(TextTask):
    """Key and value tokens side by side, then every key is asked once, in another order."""

    pairs: int | None = None
    """Pairs in a context; None means one for every 16 tokens, 4 to 32."""

    name = "pairs"

    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        """Draws keys and values without repetition and asks every key."""
        count = self.pairs or int(np.clip(context_tokens // 16, 4, 32))
        keys, values = (
            rng.choice(vocabulary.keys, count, replace=False),
            rng.choice(vocabulary.values, count, replace=False),
        )
        order = rng.permutation(count)
        items = list(np.stack([keys, values], axis=1))
        return statements(items, list(keys[order, None]), list(values[order, None]))


@dataclass(frozen=True)
class Passkey(TextTask):
    """A few needles, each a marker, a name and a passkey of several tokens, in a haystack of real text alone."""

    text_fraction: float = 1.0
    needles: int = 3
    """Needles in a context, all asked for."""
    passkey_tokens: int = 5
    """Tokens of each passkey."""

    name = "passkey"

    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        """Draws names and passkeys; no token occurs in two needles."""
        names = rng.choice(vocabulary.keys, self.needles, replace=False)
        passkeys = rng.choice(vocabulary.values, (self.needles, self.passkey_tokens), replace=False)
        heads = [np.array([vocabulary.passkey, name]) for name in names]
        items = [np.concatenate([head, passkey]) for head, passkey in zip(heads, passkeys, strict=True)]
        order = rng.permutation(self.needles)
        return statements(items, [heads[i] for i in order], [passkeys[i] for i in order])


@dataclass(frozen=True)
class Copy(TextTask):
    """A marked span of filler, asked for again after the same marker and name."""

    spans: int = 2
    """Marked spans in a context, all asked for."""
    span_tokens: int = 12
    """Tokens of each span: filler like that around it."""

    name = "copy"

    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        """Draws spans from the same filler as the context's."""
        names = rng.choice(vocabulary.keys, self.spans, replace=False)
        heads = [np.array([vocabulary.span, name]) for name in names]
        spans = [filler.draw(rng, self.span_tokens)[0] for _ in range(self.spans)]
        # The closing marker also keeps a span's text from running into the text around it.
        items = [np.concatenate([head, span, [vocabulary.span]]) for head, span in zip(heads, spans, strict=True)]
        order = rng.permutation(self.spans)
        return statements(items, [heads[i] for i in order], [np.append(spans[i], vocabulary.span) for i in order])


@dataclass(frozen=True)
class Variables(TextTask):
    """Chains of assignments x = value, y = x, ...; the value of each chain's last name is asked."""

    chains: int = 6
    """Chains in a context, interleaved at random."""
    hops: int = 2
    """Assignments in a chain; 2 means x = value, y = x."""

    name = "variables"

    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        """Draws names and values and interleaves the chains, each in its own order."""
        names = rng.choice(vocabulary.keys, (self.chains, self.hops), replace=False)
        values = rng.choice(vocabulary.values, self.chains, replace=False)
        sources = np.concatenate([values[:, None], names[:, :-1]], axis=1)
        # A random interleaving that keeps every chain in order: shuffle chain numbers, count occurrences.
        turns, done, items = rng.permutation(np.repeat(np.arange(self.chains), self.hops)), [0] * self.chains, []
        for chain in turns:
            hop = done[chain]
            items.append(np.array([vocabulary.let, names[chain, hop], sources[chain, hop]]))
            done[chain] += 1
        order = rng.permutation(self.chains)
        return statements(
            items, [np.array([vocabulary.ask, names[i, -1]]) for i in order], [values[i : i + 1] for i in order]
        )


def _task(thing: Any) -> TextTask | None:
    if isinstance(thing, type) and issubclass(thing, TextTask) and not isabstract(thing):
        return thing()
    return thing if isinstance(thing, TextTask) else None


_OURS = (Pairs(), Passkey(), Copy(), Variables())
SHIPPED_TASKS = tuple(task.name for task in _OURS)
"""The recall tasks that the shipped checkpoint was made for."""
TASKS: Registry[TextTask] = Registry(_OURS, _task, "a TextTask that draws evidence", GROUP, is_task)
"""Every recall task by its name, those of other packages among them."""


def get_task(name: str) -> TextTask:
    """The registered task called `name`.

    Raises:
        UnknownNameError: if there is none.
    """
    if name not in TASKS:
        raise UnknownNameError(f"expected the name of a text task, found {name!r}. {did_you_mean(name, TASKS)}")
    return TASKS[name]
