"""Exams out of text benchmarks: tokenised, cut in the middle where they do not fit, answered greedily.

The protocol is the sources': no special tokens but the tokenizer's own at the beginning, the chat template only where
it is asked for and the benchmark itself uses one, and of a prompt that does not fit the first and the last half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from evaluations.language.exams import Exam, ExamPrompts, Grade
from evaluations.tasks.text import Benchmark, TextItem
from evaluations.tasks.text.fitted import Fitted, Wrapping, fitted
from modalities.language.prompts import Prompt
from modalities.language.reading import Answer
from modalities.pretrained.tokenizer import text_of
from namm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST = 16
"""Fewest tokens of a prompt that a window must leave room for."""
LOOK_BACK = 8
"""Last tokens that are searched for what ends an answer."""


@dataclass(frozen=True)
class Reading:
    """How prompts become tokens."""

    window: int
    """Most tokens of a prompt and its answer together."""
    chat_template: bool = False
    """Wrap prompts in the model's chat template, in tasks whose source does so."""
    limit: int | None = None
    """First prompts of a task only."""


@dataclass
class BenchmarkExam(Exam):
    """One task of a benchmark."""

    benchmark: Benchmark
    task: str
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    """Tokens that end an answer."""
    reading: Reading

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - nobody sets it
        """BENCHMARK/TASK."""
        return f"{self.benchmark.name}/{self.task}"

    @property
    def score_name(self) -> str:
        """The metric."""
        return str(self._protocol.get("metric", "score"))

    @cached_property
    def drawn(self) -> bool:
        """Whether the contexts are generated here."""
        return bool(self._protocol.get("generated"))

    @cached_property
    def _protocol(self) -> dict[str, Any]:
        return dict(self.benchmark.protocol(self.task))

    def items(self, seed: int) -> Sequence[TextItem]:
        """The benchmark's prompts."""
        if not hasattr(self, "_items"):
            self._items: dict[int, Sequence[TextItem]] = {}
        if seed not in self._items:
            self._items[seed] = self.benchmark.items(self.task, self.tokenizer, self.reading.limit, seed)
        return self._items[seed]

    def prompts(self, seed: int) -> ExamPrompts:
        """See Exam."""
        items, prompts, cut = self.items(seed), [], 0
        for item in items:
            found = self._fitted(item)
            question = min(max(1, found.question_tokens), len(found.ids) - 1)
            ids = tuple(found.ids)
            prompts.append(Prompt(ids[:-question], ids[-question:], new_tokens=item.max_new_tokens))
            cut += found.was_cut
        if not prompts:
            raise DataError(f"{self.name} has no prompts; is its file empty?")
        places = range(len(items))
        return ExamPrompts(
            tuple(prompts),
            tuple(item.id for item in items),
            tuple((place,) for place in places),
            tuple(" | ".join(item.answers) for item in items),
            {"prompts_cut": cut},
            tuple(_document(item) for item in items),
            tuple(items),
        )

    def grade(self, asked: ExamPrompts, place: int, answers: Sequence[Answer]) -> Grade:
        """See Exam."""
        item: TextItem = asked.sources[place]
        told = {name: value for name, value in item.groups.items() if isinstance(value, (int, float, str))}
        return {"score": 100.0 * self.benchmark.score(self.task, item, self.answer_text(answers)), **told}

    def finished(self, tokens: list[int]) -> bool:
        """At an end-of-text token, or a string that cuts answers of this task."""
        if tokens[-1] in self.ends:
            return True
        stops = self._protocol.get("stop") or ()
        return bool(stops) and any(stop in self._decode(tokens[-LOOK_BACK:]).lstrip("\n") for stop in stops)

    def answer_text(self, answers: Sequence[Answer]) -> str:
        """The answer up to what ends it."""
        tokens = list(answers[0].tokens)
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        text = self._decode(tokens[:end])
        for stop in self._protocol.get("stop") or ():
            text = text.lstrip("\n").partition(stop)[0]
        return text

    def identity(self) -> dict[str, Any]:
        """See Exam."""
        decides = {name: value for name, value in self._protocol.items() if name != "data"}  # its checksum does
        return {
            "benchmark": decides,
            "window": self.reading.window,
            "chat_template": self._wraps,
            **({"chat_template_sha256": self._wrapping.sha256} if self._wrapping is not None else {}),
            "limit": self.reading.limit,
        }

    def protocol(self) -> dict[str, Any]:
        """See Exam."""
        return {"decoding": "greedy", "data": str(self._protocol.get("data", ""))}

    @property
    def _wraps(self) -> bool:
        return self.reading.chat_template and bool(self._protocol.get("chat_template", True))

    @cached_property
    def _wrapping(self) -> Wrapping | None:
        return Wrapping(self.tokenizer) if self._wraps else None

    def _fitted(self, item: TextItem) -> Fitted:
        """The prompt's ids as the model reads them, its middle cut out where it does not fit."""
        limit = self.reading.window - item.max_new_tokens
        if limit < SHORTEST:
            raise ConfigError(
                f"--window {self.reading.window} leaves {limit} tokens for a prompt of {self.name} beside an answer of "
                f"{item.max_new_tokens}; pass at least {item.max_new_tokens + SHORTEST}."
            )
        name = f"Prompt {item.id!r} of {self.name}"
        found = fitted(item.prompt, item.context_end, self.tokenizer, limit, self._wrapping, name)
        if found.was_cut and self._protocol.get("truncation") == "none":
            raise DataError(
                f"{name} has {found.tokens} tokens, and {limit} fit beside its answer; this benchmark cuts nothing: "
                "pass a larger --window or shorter contexts."
            )
        return found

    def _decode(self, ids: Sequence[int]) -> str:
        return text_of(self.tokenizer, ids, skip_special_tokens=True)


def _document(item: TextItem) -> str | None:
    """A short name of what an item is about: of the text alone, so that other seeds and limits give the same."""
    return None if item.document is None else sha256(item.document.encode(errors="surrogatepass")).hexdigest()[:12]
