"""InfiniteBench: 12 tasks on contexts of 100k tokens and more (Zhang et al., ACL 2024).

Prompts are those of its src/prompt.py, which has a set for each model it was tried on: `yarn_mistral` is for models
that continue text, `gpt4` for those that chat. The file is read, not run. Most users leave out math_calc, whose answers
are as long as its contexts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluations.rows.provenance import package_versions
from evaluations.tasks.text.base import Benchmark, TextItem
from evaluations.tasks.text.metrics import character_f1, rouge_lsum, word_f1
from evaluations.tasks.text.metrics import infinitebench as rules
from evaluations.tasks.text.records import Record
from evaluations.tasks.text.source import FolderSource, open_source, template_places
from evaluations.tasks.text.templates import Template, find_file, read_constants
from namm.errors import DataError
from namm.files import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_FILE = "prompt.py"
LETTERS = "ABCD"

MAX_NEW_TOKENS = {
    "passkey": 6, "number_string": 12, "kv_retrieval": 50, "longbook_sum_eng": 1200, "longbook_choice_eng": 40,
    "longbook_qa_eng": 40, "longbook_qa_chn": 40, "longdialogue_qa_eng": 40, "math_find": 3, "math_calc": 30000,
    "code_run": 5, "code_debug": 5,
}  # fmt: skip
"""The tasks and their longest answers (src/eval_utils.py)."""

BY_LETTER: dict[str, Callable[[str, str, str], float]] = {
    "longbook_choice_eng": rules.choice, "code_debug": rules.faulty_function,
}  # fmt: skip
BY_LABEL: dict[str, Callable[[str, str], float]] = {
    "passkey": rules.first_integer, "number_string": rules.first_integer, "kv_retrieval": rules.word_among,
    "math_find": rules.first_number, "code_run": rules.last_integer,
}  # fmt: skip
BEST_OVER: dict[str, Callable[[str, str], float]] = {
    "longbook_qa_eng": word_f1, "longbook_qa_chn": character_f1, "longbook_sum_eng": rouge_lsum,
}  # fmt: skip
METRICS = {
    "passkey": "first integer", "number_string": "first integer", "kv_retrieval": "value among words",
    "longbook_sum_eng": "ROUGE-Lsum", "longbook_choice_eng": "option chosen",
    "longbook_qa_eng": "word F1", "longbook_qa_chn": "character F1", "longdialogue_qa_eng": "name in answer",
    "math_find": "first number", "math_calc": "values right",
    "code_run": "last integer", "code_debug": "option chosen",
}  # fmt: skip
NUMERIC = ("math_find", "math_calc", "code_run")


class InfiniteBench(Benchmark):
    """The 12 tasks."""

    name = "infinitebench"
    tasks = tuple(MAX_NEW_TOKENS)

    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """The prompts of a task, in the order of its data; see `Benchmark.items`."""
        source, template = self._source, self._template(task)

        def build(record: Record) -> TextItem:
            prompt, end = template.fill(_fields(task, record))
            # a row's place is its name: nothing says that the `id` of these files is unique
            named = record.where.rsplit(":", 1)[-1].removeprefix("row ")
            document = record.text("context", "content", empty=False)
            return TextItem(named, prompt, _answers(task, record), MAX_NEW_TOKENS[task], end, document=document)

        return source.items(build, task, split=task, limit=limit)

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """By the task's rule; see `METRICS`."""
        if task in BY_LETTER:
            return BY_LETTER[task](prediction, item.answers[0], item.answers[1])
        if task in BY_LABEL:
            return BY_LABEL[task](prediction, item.answers[0])
        if task in BEST_OVER:
            return max(BEST_OVER[task](prediction, answer) for answer in item.answers)
        return (rules.same_beginning if task == "math_calc" else rules.name_in)(prediction, item.answers)

    def protocol(self, task: str) -> Mapping[str, Any]:
        """See `Benchmark.protocol`."""
        path, _ = self._prompts
        return {
            "benchmark": self.name,
            "task": task,
            "metric": METRICS[task],
            "max_new_tokens": MAX_NEW_TOKENS[task],
            "generated": False,
            "truncation": "middle",
            "stop": [],
            "chat_template": self.options.prompt_set != "yarn_mistral",
            "versions": package_versions(("rouge_score",) if task == "longbook_sum_eng" else ()),
            "data": self._source.name,
            "revision": self._source.revision,
            "prompt_set": self.options.prompt_set,
            "sha256": {"data": self._source.sha256(task, split=task), PROMPT_FILE: file_sha256(path)},
        }

    @cached_property
    def _source(self) -> FolderSource:
        return open_source(self.options.data, self.name, "xinrongzhang2022/InfiniteBench")

    @cached_property
    def _prompts(self) -> tuple[Path, dict[str, str]]:
        places = template_places(self.options.templates, self._source, PROMPT_FILE, f"src/{PROMPT_FILE}")
        path = find_file(
            places, "InfiniteBench's prompts", "copy src/prompt.py of https://github.com/OpenBMB/InfiniteBench beside "
            "the data, or pass it as templates"
        )  # fmt: skip
        sets = {name.removesuffix("_templates"): table for name, table in read_constants(path).items()}
        chosen = sets.get(self.options.prompt_set)
        if not isinstance(chosen, dict):
            raise DataError(
                f"{path}: expected the prompts {self.options.prompt_set}_templates, found {', '.join(sets) or 'none'}; "
                "choose another prompt_set"
            )
        return path, chosen

    def _template(self, task: str) -> Template:
        path, prompts = self._prompts
        if not isinstance(prompts.get(task), str):
            raise DataError(f"{path}: expected a prompt for {task} in {self.options.prompt_set}_templates, found none")
        return Template(prompts[task], f"{path} ({self.options.prompt_set}, {task})")


def _fields(task: str, record: Record) -> dict[str, object]:
    question = record.text("input")
    fields: dict[str, object] = {"context": record.text("context", "content", empty=False), "input": question}
    if task.startswith("longbook"):
        fields["question"] = question
    if task in BY_LETTER:
        options = record.texts("options", least=len(LETTERS))
        fields |= {f"OPTION_{letter}": option for letter, option in zip(LETTERS, options, strict=False)}
    if task == "code_run":
        call = re.search(r"(func_[0-9]+)\(-?[0-9]+\)", question)
        if call is None:
            raise record.fault("a call such as func_7(3) in 'input'", repr(question[:80]))
        fields |= {"func": call.group(1), "func_call": call.group()}
    if task == "math_find":
        asked = re.search(r"The .+ of", question)
        if asked is None:
            raise record.fault("'The ... of' in 'input'", repr(question[:80]))
        wanted = f"What is {asked.group().lower()[:-3]} in the following list?"
        # the field's name in the prompts of different commits
        fields |= {"prefix": wanted, "prompt": wanted}
    return fields


def _answers(task: str, record: Record) -> tuple[str, ...]:
    value = record.fields.get("answer")
    nested = value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) else value
    listed = nested if isinstance(nested, list) else [nested]
    texts = [str(part) if isinstance(part, int | float) and not isinstance(part, bool) else part for part in listed]
    answers = Record({"answer": texts if texts != [None] else None}, record.where).texts("answer")
    if task in NUMERIC and not all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for answer in answers):
        raise record.fault("numbers in 'answer'", repr(answers))
    if task not in BY_LETTER:
        return answers
    options = record.texts("options", least=len(LETTERS))
    if len(answers) == 2 and answers[1] in LETTERS:
        return answers
    if answers[0] not in options[: len(LETTERS)]:
        raise record.fault("one of 'options' in 'answer'", repr(answers[0]))
    return answers[0], LETTERS[options.index(answers[0])]
