"""Benchmarks scored by the log-likelihood of the right answer, and questions that stand before the context as well.

An answer that is right or wrong says one bit a prompt; its likelihood, read on token by token through the evicting
cache, tells policies apart with a tenth of the prompts. Whether greedy decoding would have given just this answer comes
with it for nothing: it would where every token is the first choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from evaluations.language.benchmark_exams import BenchmarkExam
from evaluations.language.exams import ExamPrompts, Grade
from evaluations.rows.trials import LOG_LIKELIHOOD
from evaluations.tasks.text import TextItem
from modalities.language.prompts import IGNORED, Prompt
from modalities.language.reading import Answer
from namm.errors import ConfigError

Question = Literal["after", "before"]
Answers = Literal["generated", "likelihood"]


@dataclass
class AskedExam(BenchmarkExam):
    """A benchmark's task at one length, with the question after the context alone or before it too."""

    context_tokens: int = 0
    """Its length; 0 where the task has none of its own."""
    question: Question = "after"
    """`before`: the question stands before the context and again after it, so that a policy has seen it (query-aware).
    """

    def items(self, seed: int) -> Sequence[TextItem]:
        """The benchmark's prompts, with the question where it is wanted."""
        if self.question == "after":
            return super().items(seed)
        if not hasattr(self, "_moved"):
            self._moved: dict[int, Sequence[TextItem]] = {}
        if seed not in self._moved:
            self._moved[seed] = [self._with_question_before(item) for item in super().items(seed)]
        return self._moved[seed]

    def _with_question_before(self, item: TextItem) -> TextItem:
        if item.context_end is None:
            raise ConfigError(f"{self.name} does not say what its question is; leave out --questions before.")
        question = item.prompt[item.context_end :].strip()
        head = f"{question}\n\n"
        return replace(item, prompt=head + item.prompt, context_end=len(head) + item.context_end)

    def identity(self) -> dict[str, Any]:
        """See Exam."""
        told = {"question": self.question} if self.question != "after" else {}
        return {
            **super().identity(),
            **({"context_tokens": self.context_tokens} if self.context_tokens else {}),
            **told,
        }

    def protocol(self) -> dict[str, Any]:
        """See Exam."""
        where = "before the context and after it" if self.question == "before" else "after the context"
        return {**super().protocol(), "question": where}


@dataclass
class LikelihoodExam(AskedExam):
    """The same, its right answer scored in place of being generated."""

    @property
    def score_name(self) -> str:
        """Nats a token."""
        return LOG_LIKELIHOOD.name

    def prompts(self, seed: int) -> ExamPrompts:
        """See Exam; the answer follows the question."""
        asked = super().prompts(seed)
        items = {item.id: item for item in self.items(seed)}
        found = []
        for prompt, name in zip(asked.prompts, asked.ids, strict=True):
            item = items[name]
            text = self.benchmark.answer(self.task, item)
            bare = self.reading.chat_template or item.prompt[-1:].isspace()
            ids = tuple(self.tokenizer(text if bare else f" {text}", add_special_tokens=False)["input_ids"])
            targets = (IGNORED,) * (len(prompt.question) - 1) + ids
            found.append(Prompt(prompt.context, (*prompt.question, *ids[:-1]), targets))
        return replace(asked, prompts=tuple(found))

    def grade(self, asked: ExamPrompts, place: int, answers: Sequence[Answer]) -> Grade:
        """See Exam."""
        mean = float(np.mean(answers[0].log_likelihoods))
        hits = answers[0].hits
        return {
            "score": mean,
            "nats_per_token": -mean,
            "token_accuracy": float(np.mean(hits)),
            "exact": 100.0 * all(hits),
        }

    def finished(self, tokens: list[int]) -> bool:
        """Nothing is generated."""
        return True

    def identity(self) -> dict[str, Any]:
        """See Exam."""
        return {**super().identity(), "answers": "likelihood"}

    def protocol(self) -> dict[str, Any]:
        """See Exam."""
        scored = (
            "the right answer, teacher forced through the evicting cache; exact where each token is the first choice"
        )
        return {**super().protocol(), "decoding": "none", "scored": scored}
