"""What RULER's tasks hide, and how much of it, made from a generator and a number of units of context.

Numbers are RULER's (scripts/synthetic.yaml and the scripts beside it): needles, keys and values, hops, frequencies. A
unit is a sentence of haystack, a line of noise, a word of a list, or a document.
"""

from __future__ import annotations

import string
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import zeta

from evaluations.tasks.text.haystacks import Haystack, draw_depths, insert_at
from evaluations.tasks.text.ruler_words import ADJECTIVES, NOISE, NOUNS
from namm.errors import DataError


@dataclass(frozen=True)
class Context:
    """A context, what is asked about it, and what the answer must contain."""

    text: str
    query: str
    answers: tuple[str, ...]
    facts: Mapping[str, str | int]
    """Further fields of the prompt."""


@dataclass(frozen=True)
class Needles:
    """Which needles a niah task hides, and where."""

    haystack: str
    """`noise`, `text`, or `needles`: lines of the needle's form."""

    keys: int = 1
    values: int = 1
    queries: int = 1
    key_kind: str = "words"
    value_kind: str = "numbers"


NIAH = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles("text"),
    "niah_single_3": Needles("text", value_kind="uuids"),
    "niah_multikey_1": Needles("text", keys=4),
    "niah_multikey_2": Needles("needles"),
    "niah_multikey_3": Needles("needles", key_kind="uuids", value_kind="uuids"),
    "niah_multivalue": Needles("text", values=4),
    "niah_multiquery": Needles("text", queries=4),
}

HOPS = 4
COMMON_WORDS = 10
VALUE_DIGITS = 7
CODED_LETTERS = 6
CODED_SHAPE = 2.0
SHORT_LENGTH = 4096
"""Below this length the common words of `cwe` are repeated less often."""


def niah(task: Needles, needle: str, haystack: Haystack, rng: np.random.Generator, units: int) -> Context:
    """Needles in a haystack of so many sentences or lines."""
    keys = _distinct(task.key_kind, max(task.keys, task.queries), rng)
    values = [[draw(task.value_kind, rng) for _ in range(task.values)] for _ in keys]
    hidden = [_needle(needle, task, key, value) for key, own in zip(keys, values, strict=True) for value in own]
    hidden = [hidden[place] for place in rng.permutation(len(hidden))]
    if task.haystack == "text":
        start = int(rng.integers(len(haystack.sentences)))
        text = " ".join(insert_at(haystack.take(units, start), hidden, draw_depths(rng, len(hidden))))
    else:
        lines = [NOISE] * units
        if task.haystack == "needles":
            lines = [_needle(needle, task, draw(task.key_kind, rng), draw(task.value_kind, rng)) for _ in range(units)]
        for place, line in zip(sorted(rng.choice(units, size=len(hidden), replace=False))[::-1], hidden, strict=True):
            lines.insert(int(place), line)
        text = "\n".join(lines)
    asked = [int(place) for place in rng.permutation(len(keys))[: task.queries]]
    names = [keys[place] for place in asked]
    query = f"{', '.join(names[:-1])}, and {names[-1]}" if len(names) > 1 else names[0]
    answers = tuple(value for place in asked for value in values[place])
    kind = task.value_kind if len(answers) > 1 else task.value_kind.removesuffix("s")
    return Context(text, query, answers, {"type_needle_v": kind})


def variables(rng: np.random.Generator, units: int, letters: int = 5) -> Context:
    """A chain of variables, each the value of the one before, among so many lines of noise."""
    names: list[str] = []
    while len(names) <= HOPS:
        name = "".join(rng.choice(list(string.ascii_uppercase), size=letters))
        names += [name] if name not in names else []
    value = str(rng.integers(10_000, 100_000))
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {later} = VAR {earlier}" for earlier, later in pairwise(names)]
    lines = [NOISE] * units
    for done, place in enumerate(sorted(rng.choice(units + 1, size=len(chain), replace=True))):
        lines.insert(int(place) + done, chain[done])
    return Context("\n".join(lines), value, tuple(names), {"num_v": HOPS + 1})


def common_words(rng: np.random.Generator, units: int, often: int, seldom: int) -> Context:
    """A numbered list of so many different words, ten of them `often`, the others `seldom`."""
    words = _words(units, rng)
    common, rare = words[:COMMON_WORDS], words[COMMON_WORDS:]
    listed = common * often + rare * seldom
    order = rng.permutation(len(listed))
    text = " ".join(f"{number}. {listed[place]}" for number, place in enumerate(order, start=1))
    return Context(text, "", tuple(common), {})


def frequent_words(rng: np.random.Generator, units: int, vocabulary: int) -> Context:
    """So many invented words, drawn by Zipf's law; the most frequent is "...", the next three are asked for.

    Raises:
        DataError: The context is too short for three words to differ in frequency from the rest.
    """
    if vocabulary < 5:
        raise DataError(f"expected five invented words or more, found {vocabulary}; choose a greater length")
    coded: list[str] = []
    while len(coded) < vocabulary:
        word = "".join(rng.choice(list(string.ascii_lowercase), size=CODED_LETTERS))
        coded += [word] if word not in coded else []
    coded[0] = "..."
    ranks = np.arange(1, vocabulary + 1)
    counts = (units * ranks**-CODED_SHAPE / zeta(CODED_SHAPE)).astype(int)
    words = [word for word, count in zip(coded, counts, strict=True) for _ in range(count)]
    return Context(" ".join(words[place] for place in rng.permutation(len(words))), "", tuple(coded[1:4]), {})


def documents(
    rng: np.random.Generator, units: int, question: str, answers: Sequence[str], right: Sequence[str],
    near: Sequence[str], others: Sequence[str],
) -> Context:  # fmt: skip
    """So many documents: those that answer the question, then some near ones, then any others."""
    chosen = list(right)
    for pool in (near, others):
        free = [text for text in pool if text not in chosen]
        places = rng.permutation(len(free))[: max(0, units - len(chosen))]
        chosen += [free[place] for place in places]
    shown = [chosen[place] for place in rng.permutation(len(chosen))]
    text = "\n\n".join(f"Document {number}:\n{document}" for number, document in enumerate(shown, start=1))
    return Context(text, question, tuple(answers), {})


def draw(kind: str, rng: np.random.Generator) -> str:
    """A number of seven digits, an adjective with a noun, or a UUID."""
    if kind == "numbers":
        return str(rng.integers(10 ** (VALUE_DIGITS - 1), 10**VALUE_DIGITS))
    if kind == "words":
        return f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]}-{NOUNS[rng.integers(len(NOUNS))]}"
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def _distinct(kind: str, count: int, rng: np.random.Generator) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        new = draw(kind, rng)
        found += [new] if new not in found else []
    return found


def _needle(needle: str, task: Needles, key: str, value: str) -> str:
    # not `format`: keys and values are ours, the sentence may be another's, and it names only these three
    return needle.replace("{type_needle_v}", task.value_kind).replace("{key}", key).replace("{value}", value)


def _words(count: int, rng: np.random.Generator) -> list[str]:
    """Different words in random order: single ones, and pairs of them for what single ones do not suffice for."""
    single, pairs = [*ADJECTIVES, *NOUNS], len(ADJECTIVES) * len(NOUNS)
    if count > len(single) + pairs:
        raise DataError(
            f"expected a list of at most {len(single) + pairs} different words, found {count}; choose a smaller length"
        )
    drawn = [single[place] for place in rng.permutation(len(single))[:count]]
    places = rng.choice(pairs, size=count - len(drawn), replace=False)
    drawn += [f"{ADJECTIVES[place // len(NOUNS)]}-{NOUNS[place % len(NOUNS)]}" for place in places]
    return [drawn[place] for place in rng.permutation(count)]
