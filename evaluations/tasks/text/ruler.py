"""RULER: 13 synthetic tasks at any context length (Hsieh et al., COLM 2024), generated here for any tokenizer.

Needles, chains and word lists need no data; long texts to hide needles in are a folder's or Python's documentation; the
two question tasks read SQuAD's and HotpotQA's files. An item depends on the task, its length, its place, the seed, the
tokenizer and the wording, and on nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluations.rows.provenance import package_versions
from evaluations.tasks.text import ruler_contexts as contexts
from evaluations.tasks.text.base import Benchmark, TextItem
from evaluations.tasks.text.fitting import fit, most_that_fits, token_count
from evaluations.tasks.text.haystacks import Haystack, has_texts, open_haystack
from evaluations.tasks.text.metrics import string_match_all, string_match_any
from evaluations.tasks.text.ruler_contexts import NIAH, Context
from evaluations.tasks.text.ruler_questions import QUESTION_FILES, QuestionSet, question_file, read_questions
from evaluations.tasks.text.ruler_words import Wording, open_wording
from evaluations.tasks.text.templates import Template
from namm.errors import DataError
from namm.files import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 500
MAX_NEW_TOKENS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
LEAST_UNITS = {"niah": 5, "vt": 1, "cwe": 20, "fwe": 100, "qa": 1}

Maker = Callable[[np.random.Generator, int], Context]


class Ruler(Benchmark):
    """The 13 tasks."""

    name = "ruler"
    tasks = (*NIAH, "vt", "cwe", "fwe", *QUESTION_FILES)
    in_harness = True

    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """Prompts that fill each of `lengths`, the answer's tokens included; see `Benchmark.items`."""
        count = self._samples if limit is None else min(limit, self._samples)
        return [
            item for length in self.options.lengths for item in self._of_length(task, tokenizer, length, count, seed)
        ]

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """The part of the references that appear; for questions, whether any does."""
        return (string_match_any if task in QUESTION_FILES else string_match_all)(prediction, item.answers)

    def answer(self, task: str, item: TextItem) -> str:
        """All that is asked for; for questions the first reference."""
        return item.answers[0] if task in QUESTION_FILES else _written(task, item.answers)

    def protocol(self, task: str) -> Mapping[str, Any]:
        """See `Benchmark.protocol`."""
        digests = {path.name: file_sha256(path) for path in self._wording.files}
        haystack = ""
        if task in NIAH and NIAH[task].haystack == "text":
            haystack, digests["haystack"] = self._haystack.name, self._haystack.sha256
        if task in QUESTION_FILES:
            digests["questions"] = file_sha256(question_file(task, self._folder))
        wording = self.options.templates
        return {
            "benchmark": self.name,
            "task": task,
            "metric": "any string match" if task in QUESTION_FILES else "string match",
            "max_new_tokens": MAX_NEW_TOKENS[_kind(task)],
            "generated": True,
            "truncation": "none",
            "stop": [],
            "chat_template": True,
            "versions": package_versions(("lm_eval",) if wording == "lm_eval" else ()),
            "lengths": list(self.options.lengths),
            "samples": self._samples,
            "wording": "own" if wording is None else str(wording),
            "haystack": haystack,
            "sha256": digests,
        }

    def _of_length(
        self, task: str, tokenizer: PreTrainedTokenizerBase, length: int, count: int, seed: int
    ) -> list[TextItem]:
        room = length - MAX_NEW_TOKENS[_kind(task)]
        if task in QUESTION_FILES:
            count = min(count, len(self._questions(task).questions))
        items: list[TextItem] = []
        most, at_most = 0, len(self._questions(task).documents) if task in QUESTION_FILES else None
        for place in range(count):
            key = [seed, zlib.crc32(task.encode()), length, place]
            make, least = self._maker(task, place, length), self._least(task, place)

            def prompt(units: int, key: Sequence[int] = key, make: Maker = make) -> tuple[str, int | None, Context]:
                return self._prompt(task, make, np.random.default_rng(key), units, length)

            def size(made: tuple[str, int | None, Context]) -> int:
                return token_count(tokenizer, made[0])

            if not items:
                what = f"{task} at length {length}"
                most = most_that_fits(lambda units: size(prompt(units)), room, least, what, at_most)
            text, end, context = fit(prompt, size, room, max(most, least), least, at_most)
            name, longest = f"{length}-{place}", MAX_NEW_TOKENS[_kind(task)]
            about, groups = self._document(task, place), {"tokens": length}
            items.append(TextItem(name, text, context.answers, longest, end, groups=groups, document=about))
        return items

    def _document(self, task: str, place: int) -> str | None:
        """What a question is answered from: the same at every length and seed, and for its neighbours."""
        if task not in QUESTION_FILES:
            return None
        found = self._questions(task)
        return "\n\n".join(found.documents[number] for number in found.questions[place].documents)

    def _prompt(
        self, task: str, make: Maker, rng: np.random.Generator, units: int, length: int
    ) -> tuple[str, int | None, Context]:
        example = ""
        if (shown := self._example(task, rng, length)) is not None:
            example = f"{self._fill(task, shown)[0]} {_written(task, shown.answers)}\n\n"
        context = make(rng, units)
        text, end = self._fill(task, context)
        return example + text, None if end is None else len(example) + end, context

    def _fill(self, task: str, context: Context) -> tuple[str, int | None]:
        kind = "niah_one" if task in NIAH and len(context.answers) == 1 else _kind(task)
        template = Template(self._wording.templates[kind], f"wording of {task}")
        return template.fill({"context": context.text, "query": context.query, **context.facts})

    def _example(self, task: str, rng: np.random.Generator, length: int) -> Context | None:
        """The solved example that RULER puts before a task of kinds that need one."""
        if task == "vt":
            return contexts.variables(rng, 5, letters=3)
        if task == "cwe":
            short = length < contexts.SHORT_LENGTH
            return contexts.common_words(rng, *((20, 3, 1) if short else (40, 10, 3)))
        return None

    def _maker(self, task: str, place: int, length: int) -> Maker:
        if task in NIAH:
            needle, haystack = self._wording.needle, self._haystack
            return lambda rng, units: contexts.niah(NIAH[task], needle, haystack, rng, units)
        if task == "vt":
            return contexts.variables
        if task == "cwe":
            often, seldom = (6, 1) if length < contexts.SHORT_LENGTH else (30, 3)
            return lambda rng, units: contexts.common_words(rng, units, often, seldom)
        if task == "fwe":
            return lambda rng, units: contexts.frequent_words(rng, units, length // 50)
        found = self._questions(task)
        question = found.questions[place]
        texts = found.documents
        right, near = [texts[p] for p in question.documents], [texts[p] for p in question.near]
        return lambda rng, units: contexts.documents(rng, units, question.text, question.answers, right, near, texts)

    def _least(self, task: str, place: int) -> int:
        if task in QUESTION_FILES:
            return len(self._questions(task).questions[place].documents)
        return LEAST_UNITS[_kind(task)]

    def _questions(self, task: str) -> QuestionSet:
        return read_questions(task, question_file(task, self._folder))

    @property
    def _samples(self) -> int:
        return SAMPLES if self.options.samples is None else self.options.samples

    @cached_property
    def _wording(self) -> Wording:
        return open_wording(self.options.templates)

    @cached_property
    def _haystack(self) -> Haystack:
        folder = self._folder
        return open_haystack(folder if folder is not None and has_texts(folder) else None, self.options.texts)

    @cached_property
    def _folder(self) -> Path | None:
        if self.options.data is None:
            return None
        folder = Path(self.options.data).expanduser()
        if not folder.is_dir():
            raise DataError(f"expected a folder with texts or question files for ruler at {folder}, found none")
        return folder / self.name if (folder / self.name).is_dir() else folder


def _kind(task: str) -> str:
    return "niah" if task in NIAH else "qa" if task in QUESTION_FILES else task


def _written(task: str, answers: Sequence[str]) -> str:
    if task == "cwe":
        return " ".join(f"{number}. {word}" for number, word in enumerate(answers, start=1))
    return " ".join(answers)
