"""Questions about real documents: the reference pages of numpy, scipy and torch, many of them in one context.

`function` gives what a function is for and asks for its name; `purpose` gives the name and asks for the first sentence
of its page. Both answers stand in the context, word for word, and each once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluations.rows.provenance import package_versions
from evaluations.tasks.text.base import Benchmark, TextItem
from evaluations.tasks.text.fitting import fit, most_that_fits, token_count
from evaluations.tasks.text.metrics import string_match_all
from evaluations.tasks.text.package_texts import Entry, documents_sha256, entries

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = "Read these pages of a reference manual and answer the question at their end.\n\n"
QUESTIONS = {
    "function": "\n\nQuestion: which function has this purpose: {summary}? Answer: the function is named",
    "purpose": "\n\nQuestion: what is the function {name} for, in the words of its page? Answer:",
}
MAX_NEW_TOKENS = 40
SAMPLES = 50


class Documents(Benchmark):
    """The two kinds of question."""

    name = "documents"
    tasks = tuple(QUESTIONS)

    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """Prompts that fill each of `lengths`; see `Benchmark.items`."""
        count = self._samples if limit is None else min(limit, self._samples)
        items: list[TextItem] = []
        for length in self.options.lengths:
            room, most = length - MAX_NEW_TOKENS, 0
            for place in range(count):
                key = [seed, QUESTIONS_SEED[task], length, place]

                def make(units: int, key: Sequence[int] = key) -> tuple[str, int, Entry]:
                    return _prompt(task, np.random.default_rng(key), units)

                def size(made: tuple[str, int, Entry]) -> int:
                    return token_count(tokenizer, made[0])

                if not most:
                    most = most_that_fits(lambda units: size(make(units)), room, 1, f"documents at length {length}")
                text, end, asked = fit(make, size, room, most, 1)
                answer = asked.name if task == "function" else asked.summary
                groups: dict[str, str | int] = {"tokens": length}
                items.append(TextItem(f"{length}-{place}", text, (answer,), MAX_NEW_TOKENS, end, groups=groups))
        return items

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """1 if the name, or the whole sentence, is in the answer."""
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
            "stop": ["\n"],
            "chat_template": True,
            "versions": package_versions(("numpy", "scipy", "torch")),
            "lengths": list(self.options.lengths),
            "samples": self._samples,
            "sha256": {"texts": documents_sha256()},
        }

    @property
    def _samples(self) -> int:
        return SAMPLES if self.options.samples is None else self.options.samples


QUESTIONS_SEED = {task: place for place, task in enumerate(QUESTIONS)}


def _prompt(task: str, rng: np.random.Generator, units: int) -> tuple[str, int, Entry]:
    known = entries()
    chosen = [known[place] for place in rng.permutation(len(known))[:units]]
    asked = chosen[int(rng.integers(len(chosen)))]
    context = INSTRUCTION + "\n\n".join(f"Function: {entry.name}\n{entry.text}" for entry in chosen)
    question = QUESTIONS[task].format(name=asked.name, summary=asked.summary)
    return context + question, len(context), asked
