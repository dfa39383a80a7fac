"""Needle in a haystack: one sentence in a long text, at every depth of every length (after Kamradt, 2023).

The text is a folder's (`data`) or Python's documentation, the needle is our own. A score is 1 if the needle's number is
in the answer; `groups` gives length and depth, so that the two can be laid out as a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluations.tasks.text.base import Benchmark, BenchmarkOptions, TextItem
from evaluations.tasks.text.fitting import fit, most_that_fits, token_count
from evaluations.tasks.text.haystacks import Haystack, insert_at, open_haystack
from evaluations.tasks.text.metrics import string_match_all
from evaluations.tasks.text.ruler_contexts import draw
from namm.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEEDLE = "The pass number of the {key} is {value}."
QUESTION = "\n\nQuestion: what is the pass number of the {key}? Answer: the pass number of the {key} is"
INSTRUCTION = "Read the text and answer the question at its end.\n\n"

MAX_NEW_TOKENS = 32
SAMPLES = 10
"""Needles a length and depth."""


class Niah(Benchmark):
    """The sweep over `lengths` and `depths`."""

    name = "niah"
    tasks = ("sweep",)

    def __init__(self, options: BenchmarkOptions) -> None:
        """Args:
        options: `data`, `lengths`, `depths`, `samples`.

        Raises:
            ConfigError: A depth lies outside the text, or a template is named.
        """
        super().__init__(options)
        if options.templates is not None:
            raise ConfigError(f"niah has a needle of its own, found templates={options.templates}; leave templates out")
        if wrong := [depth for depth in options.depths if not 0 <= depth <= 100]:
            raise ConfigError(f"expected depths from 0 to 100 percent, found {wrong[0]}")

    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """Prompts of every length, depth and needle, in this order; `limit` is of each length and depth."""
        count = self._samples if limit is None else min(limit, self._samples)
        items: list[TextItem] = []
        for length in self.options.lengths:
            room, most = length - MAX_NEW_TOKENS, -1
            for depth in self.options.depths:
                for place in range(count):
                    key = [seed, length, depth, place]

                    def make(units: int, key: Sequence[int] = key, depth: int = depth) -> tuple[str, int, str]:
                        return self._prompt(np.random.default_rng(key), units, depth)

                    def size(made: tuple[str, int, str]) -> int:
                        return token_count(tokenizer, made[0])

                    if most < 0:
                        most = most_that_fits(lambda units: size(make(units)), room, 0, f"niah at length {length}")
                    text, end, value = fit(make, size, room, most, 0)
                    groups: dict[str, str | int] = {"tokens": length, "depth": depth}
                    name = f"{length}-{depth}-{place}"
                    items.append(TextItem(name, text, (value,), MAX_NEW_TOKENS, end, groups=groups))
        return items

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """1 if the needle's number is in the answer."""
        return string_match_all(prediction, item.answers)

    def protocol(self, task: str) -> Mapping[str, Any]:
        """See `Benchmark.protocol`."""
        return {
            "benchmark": self.name,
            "task": task,
            "metric": "string match",
            "max_new_tokens": MAX_NEW_TOKENS,
            "generated": True,
            "truncation": "none",
            "stop": [],
            "chat_template": True,
            "versions": {},
            "lengths": list(self.options.lengths),
            "samples": self._samples,
            "depths": list(self.options.depths),
            "haystack": self._haystack.name,
            "sha256": {"haystack": self._haystack.sha256},
        }

    def _prompt(self, rng: np.random.Generator, units: int, depth: int) -> tuple[str, int, str]:
        key, value = draw("words", rng), draw("numbers", rng)
        sentences = self._haystack.take(units, int(rng.integers(len(self._haystack.sentences))))
        text = " ".join(insert_at(sentences, [NEEDLE.format(key=key, value=value)], [depth]))
        context = INSTRUCTION + text
        return context + QUESTION.format(key=key), len(context), value

    @property
    def _samples(self) -> int:
        return SAMPLES if self.options.samples is None else self.options.samples

    @cached_property
    def _haystack(self) -> Haystack:
        return open_haystack(self.options.data, self.options.texts)
