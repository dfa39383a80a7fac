"""LongBench v2: 503 questions with four choices on texts of 8k to 2M words (Bai et al., 2024).

An answer counts if it says "The correct answer is (X)" with the right letter, as the benchmark's prompt asks. Of the
benchmark's prompts, the one without chain of thought and without retrieval is used: prompts/0shot.txt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluations.tasks.text.base import Benchmark, TextItem
from evaluations.tasks.text.metrics import chosen_letter
from evaluations.tasks.text.records import Record
from evaluations.tasks.text.source import FolderSource, open_source, template_places
from evaluations.tasks.text.templates import find_file
from namm.errors import DataError
from namm.files import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_FILE = "0shot.txt"
FIELDS = {
    "$DOC$": "context", "$Q$": "question", "$C_A$": "choice_A", "$C_B$": "choice_B", "$C_C$": "choice_C",
    "$C_D$": "choice_D",
}  # fmt: skip
"""Marks of the prompt file, in the order in which the benchmark's script fills them."""

DOMAINS = {
    "single_document_qa": "Single-Document QA",
    "multi_document_qa": "Multi-Document QA",
    "long_in_context_learning": "Long In-context Learning",
    "long_dialogue_history": "Long-dialogue History Understanding",
    "code_repository": "Code Repository Understanding",
    "long_structured_data": "Long Structured Data Understanding",
}
"""Its six categories: the task, and what the rows call it in `domain`."""

MAX_NEW_TOKENS = 128


class LongBenchV2(Benchmark):
    """The six categories."""

    name = "longbench-v2"
    tasks = tuple(DOMAINS)

    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """The questions of a category, in the order of the data; see `Benchmark.items`."""
        source, (template, _) = self._source, self._template

        def build(record: Record) -> TextItem:
            values = {mark: record.text(field).strip() for mark, field in FIELDS.items()}
            prompt = template
            for mark, value in values.items():
                # one after the other, as the benchmark fills them: a document that holds "$Q$" itself is filled too
                prompt = prompt.replace(mark, value)
            groups: dict[str, str | int] = {
                "difficulty": record.one_of("difficulty", ("easy", "hard")),
                "length": record.one_of("length", ("short", "medium", "long")),
            }
            answer = record.one_of("answer", ("A", "B", "C", "D"))
            end = _end_of(template, values)
            named, document = record.text("_id"), record.text("context")
            return TextItem(named, prompt, (answer,), MAX_NEW_TOKENS, end, groups=groups, document=document)

        def belongs(record: Record) -> bool:
            return record.fields.get("domain") not in DOMAINS.values() or record.fields["domain"] == DOMAINS[task]

        def checked(record: Record) -> TextItem:
            record.one_of("domain", DOMAINS.values())
            return build(record)

        return source.items(checked, "data", "longbench-v2", split="train", limit=limit, keep=belongs)

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """1 if the answer names the right letter in the sentence that was asked for."""
        return float(chosen_letter(prediction) == item.answers[0])

    def protocol(self, task: str) -> Mapping[str, Any]:
        """See `Benchmark.protocol`."""
        return {
            "benchmark": self.name,
            "task": task,
            "metric": "accuracy",
            "max_new_tokens": MAX_NEW_TOKENS,
            "generated": False,
            "truncation": "middle",
            "stop": [],
            "chat_template": True,
            "versions": {},
            "data": self._source.name,
            "revision": self._source.revision,
            "sha256": {
                "data": self._source.sha256("data", "longbench-v2", split="train"),
                PROMPT_FILE: file_sha256(self._template[1]),
            },
        }

    @cached_property
    def _source(self) -> FolderSource:
        return open_source(self.options.data, self.name, "THUDM/LongBench-v2")

    @cached_property
    def _template(self) -> tuple[str, Path]:
        places = template_places(self.options.templates, self._source, f"prompts/{PROMPT_FILE}", PROMPT_FILE)
        path = find_file(
            places, "the prompt of LongBench v2", "copy the folder prompts of https://github.com/THUDM/LongBench "
            "beside the data, or pass it as templates"
        )  # fmt: skip
        text = path.read_text(encoding="utf-8")
        if missing := [mark for mark in FIELDS if mark not in text]:
            raise DataError(f"{path}: expected the marks {', '.join(FIELDS)} in the prompt, found no {missing[0]}")
        return text, path


def _end_of(template: str, values: Mapping[str, str]) -> int | None:
    before = template.split("$DOC$")[0]
    if any(mark in before for mark in FIELDS) or any(mark in values["$DOC$"] for mark in FIELDS):
        return None
    return len(before) + len(values["$DOC$"])
