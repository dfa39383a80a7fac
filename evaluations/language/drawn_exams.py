"""Exams that are drawn here: hidden evidence in the shipped model's own tokens, and real text for any model.

Real text is the Python standard library's (evaluations/tasks/recall/corpus.py), documents of the test split alone.
Scores of its tokens and of the next line pass through the evicting cache like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluations.language.exams import Exam, ExamPrompts, Grade
from evaluations.rows.trials import LOG_LIKELIHOOD
from evaluations.tasks.recall.corpus import default_vocabulary, read_documents, split_of_document
from evaluations.tasks.recall.tasks import TextTask, test_seed
from evaluations.tasks.text.package_texts import documents_sha256, package_documents
from modalities.language.prompts import IGNORED, Prompt
from modalities.language.reading import Answer
from modalities.pretrained.tokenizer import text_of
from namm.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCORED_TOKENS = 64
"""Tokens that are scored after a context of real text."""
LINE_CHARACTERS = (16, 120)
"""Shortest and longest line that is asked for."""
NEXT_LINE_TOKENS = 64
"""Longest answer where the next line is asked for."""


@dataclass
class RecallExam(Exam):
    """Evidence hidden in filler, asked for teacher forced; the score is the share of asked tokens that are right."""

    name: str
    task: TextTask
    context_tokens: int
    count: int
    score_name = "recall accuracy"

    def prompts(self, seed: int) -> ExamPrompts:
        """See Exam."""
        drawn = self.task.sample(self.count, self.context_tokens, test_seed(seed))
        rows = zip(drawn.context.tolist(), drawn.question.tolist(), drawn.target.tolist(), strict=True)
        prompts = tuple(Prompt(tuple(context), tuple(question), tuple(target)) for context, question, target in rows)
        decode = default_vocabulary().tokenizer.decode
        expected = tuple(decode([t for t in p.targets if t != IGNORED], skip_special_tokens=False) for p in prompts)
        places = range(len(prompts))
        return ExamPrompts(prompts, tuple(map(str, places)), tuple((place,) for place in places), expected)

    def grade(self, asked: ExamPrompts, place: int, answers: Sequence[Answer]) -> Grade:
        """See Exam."""
        return {"score": 100.0 * float(np.mean(answers[0].hits))}

    def answer_text(self, answers: Sequence[Answer]) -> str:
        """The first choices."""
        return default_vocabulary().tokenizer.decode(list(answers[0].choices), skip_special_tokens=False)

    def identity(self) -> dict[str, Any]:
        """See Exam."""
        return {"context_tokens": self.context_tokens, "prompts": self.count}

    def protocol(self) -> dict[str, Any]:
        """See Exam."""
        return {"question": "teacher forced, read after the context", "measured": "when the question comes"}


class Corpus:
    """The test documents in a model's tokens.

    Args:
        tokenizer: The model's.
        texts: "python", the standard library's; "packages", documentation and books that packages carry.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: str = "python") -> None:
        self.tokenizer, self.texts = tokenizer, texts

    def identity(self) -> dict[str, Any]:
        """What is read, for the key of a row."""
        return {} if self.texts == "python" else {"texts": self.texts, "texts_sha256": documents_sha256()}

    @property
    def title(self) -> str:
        """What is read, for people."""
        return "Python's standard library" if self.texts == "python" else "documentation and books of packages"

    @cached_property
    def documents(self) -> list[tuple[str, str]]:
        """Name and text of each."""
        if self.texts == "packages":  # nothing here was trained on any of it, so there are no splits
            return list(package_documents())
        return [(name, text) for name, text in read_documents() if split_of_document(name) == "test"]

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def drawn(self, context_tokens: int, draw: np.random.Generator, wanted: Callable[[str, int], bool]) -> Any:
        """A document, the ids of what comes before one of its lines, and the character at which that line begins.

        Args:
            context_tokens: That must lie before the line, the beginning-of-text token included where there is one.
            draw: Chooses.
            wanted: Whether a line of a text, given by where it begins, may be asked for.
        """
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        needed = context_tokens - len(begin)
        for place in draw.permutation(len(self.documents)):
            text = self.documents[place][1]
            starts = [at + 1 for at, letter in enumerate(text) if letter == "\n" and wanted(text, at + 1)]
            for start in draw.permutation(starts)[:8].tolist():
                # about four characters a token; eight are enough for any tokenizer that is fit for the text
                ids = self.encode(text[max(0, start - 8 * needed) : start])
                if len(ids) >= needed:
                    return text, [*begin, *ids[-needed:]], start
        raise ConfigError(
            f"No document of {self.title} has {context_tokens} tokens before a line that can be asked for; pass a "
            "smaller --context-tokens or other --tasks."
        )


@dataclass
class PerplexityExam(Exam):
    """Log-likelihood of the tokens that follow a context of real text."""

    name: str
    corpus: Corpus
    context_tokens: int
    count: int
    score_name = LOG_LIKELIHOOD.name

    def prompts(self, seed: int) -> ExamPrompts:
        """See Exam."""
        draw = np.random.default_rng([2, self.context_tokens, test_seed(seed)])
        prompts = []
        for _ in range(self.count):
            text, context, start = self.corpus.drawn(
                self.context_tokens, draw, lambda text, at: len(text) - at > 12 * SCORED_TOKENS
            )
            following = self.corpus.encode(text[start : start + 12 * SCORED_TOKENS])[:SCORED_TOKENS]
            prompts.append(Prompt(tuple(context[:-1]), (context[-1], *following[:-1]), tuple(following)))
        places = range(self.count)
        return ExamPrompts(tuple(prompts), tuple(map(str, places)), tuple((place,) for place in places))

    def grade(self, asked: ExamPrompts, place: int, answers: Sequence[Answer]) -> Grade:
        """See Exam."""
        mean = float(np.mean(answers[0].log_likelihoods))
        return {"score": mean, "nats_per_token": -mean, "token_accuracy": float(np.mean(answers[0].hits))}

    def identity(self) -> dict[str, Any]:
        """See Exam."""
        return {"context_tokens": self.context_tokens, "prompts": self.count, "scored_tokens": SCORED_TOKENS} | (
            self.corpus.identity()
        )

    def protocol(self) -> dict[str, Any]:
        """See Exam."""
        return {"scored": f"{SCORED_TOKENS} tokens through the evicting cache", "text": self.corpus.title}


@dataclass
class NextLineExam(Exam):
    """The next line of real text: generated, and its tokens scored teacher forced. The score is the edit similarity."""

    name: str
    corpus: Corpus
    context_tokens: int
    count: int
    score_name = "edit similarity"

    def prompts(self, seed: int) -> ExamPrompts:
        """Two prompts an item, which share their context: one generates, one is scored."""
        draw = np.random.default_rng([3, self.context_tokens, test_seed(seed)])
        prompts, lines = [], []
        for _ in range(self.count):
            text, context, start = self.corpus.drawn(self.context_tokens, draw, _is_a_line)
            line = text[start : text.index("\n", start) + 1]
            ids = self.corpus.encode(line)
            before, last = tuple(context[:-1]), context[-1]
            prompts.append(Prompt(before, (last,), new_tokens=NEXT_LINE_TOKENS))
            prompts.append(Prompt(before, (last, *ids[:-1]), tuple(ids)))
            lines.append(line.rstrip("\n"))
        members = tuple((2 * place, 2 * place + 1) for place in range(self.count))
        return ExamPrompts(tuple(prompts), tuple(map(str, range(self.count))), members, tuple(lines))

    def finished(self, tokens: list[int]) -> bool:
        """At the end of the line."""
        return "\n" in text_of(self.corpus.tokenizer, tokens[-2:])

    def answer_text(self, answers: Sequence[Answer]) -> str:
        """The line."""
        return text_of(self.corpus.tokenizer, answers[0].tokens).partition("\n")[0]

    def grade(self, asked: ExamPrompts, place: int, answers: Sequence[Answer]) -> Grade:
        """See Exam; the edit similarity is difflib's ratio."""
        similarity = SequenceMatcher(None, self.answer_text(answers), asked.expected[place], autojunk=False).ratio()
        return {
            "score": 100.0 * similarity,
            "token_accuracy": float(np.mean(answers[1].hits)),
            "nats_per_token": -float(np.mean(answers[1].log_likelihoods)),
        }

    def identity(self) -> dict[str, Any]:
        """See Exam."""
        return {"context_tokens": self.context_tokens, "prompts": self.count, "new_tokens": NEXT_LINE_TOKENS} | (
            self.corpus.identity()
        )

    def protocol(self) -> dict[str, Any]:
        """See Exam."""
        return {"metric": "difflib ratio of the line, greedy", "text": self.corpus.title}


def _is_a_line(text: str, at: int) -> bool:
    end = text.find("\n", at)
    if not LINE_CHARACTERS[0] <= end - at <= LINE_CHARACTERS[1]:
        return False
    line = text[at:end]
    return LINE_CHARACTERS[0] <= len(line.strip())
