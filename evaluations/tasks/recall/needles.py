"""Needles and variables in the manner of RULER, in the vocabulary of the shipped model: many keys, values and queries.

What RULER asks of a large model in English is asked of a small one in tokens that it knows: a needle is a marker, a key
and a passkey; a variable is an assignment. The forms are RULER's, cut to what the shipped model can do with its full
cache (99.5 to 100% at 384 and 1024 tokens, 32 prompts each); what it cannot do at all tells nothing about a memory and
is not in the default: `BEYOND`.

Source of the forms: RULER, arXiv 2404.06654, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from evaluations.tasks.recall.corpus import RecallVocabulary
from evaluations.tasks.recall.filler import Filler
from evaluations.tasks.recall.tasks import Evidence, TextTask, Variables, statements


@dataclass(frozen=True)
class Needles(TextTask):
    """Needles in real text, of which some are asked for; the others only look like them."""

    name: str = "needles/single"
    text_fraction: float = 1.0
    keys: int = 1
    """Different keys in a context."""
    values: int = 1
    """Passkeys of every key, each in a needle of its own."""
    asked: int = 1
    """Keys that are asked for."""
    passkey_tokens: int = 5
    """Tokens of a passkey."""

    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        """Draws keys and passkeys; of a key with several, each is asked for by its first token."""
        names = rng.choice(vocabulary.keys, self.keys, replace=False)
        shape = (self.keys, self.values, self.passkey_tokens)
        passkeys = rng.choice(vocabulary.values, int(np.prod(shape)), replace=False).reshape(shape)
        places = [(key, value) for key in range(self.keys) for value in range(self.values)]
        items = [np.array([vocabulary.passkey, names[key], *passkeys[key, value]]) for key, value in places]
        hidden = [items[place] for place in rng.permutation(len(items))]
        chosen = rng.permutation(self.keys)[: self.asked]
        asked = [(key, value) for key in chosen for value in rng.permutation(self.values)]
        hint = int(self.values > 1)
        return statements(
            hidden,
            [np.array([vocabulary.passkey, names[key], *passkeys[key, value, :hint]]) for key, value in asked],
            [passkeys[key, value, hint:] for key, value in asked],
        )


@dataclass(frozen=True)
class Chain(Variables):
    """One chain of assignments alone, as RULER's variable tracking."""

    name: str = "needles/vt"
    chains: int = 1


NEEDLES: Mapping[str, TextTask] = MappingProxyType(
    {
        task.name: task
        for task in (
            Needles(name="needles/single"),
            Needles(name="needles/multikey", keys=8),
            Needles(name="needles/multivalue", values=4, passkey_tokens=4),
            Needles(name="needles/multiquery", keys=8, asked=4),
            Chain(name="needles/vt", hops=2),
            Chain(name="needles/vt-4hops", hops=4),
        )
    }
)
"""Tasks in RULER's forms, by name."""

BEYOND = ("needles/vt-4hops",)
"""RULER's four hops: the shipped model was trained on two, and scores next to nothing with its full cache."""
