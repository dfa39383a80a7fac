"""The form that LongBench gave to its tasks and ChouBun took over: rows of one schema, and a config folder of prompts.

A row has `input`, `context`, `answers`, `length`, `all_classes` and `_id`. `config/dataset2prompt.json` and
`config/dataset2maxlen.json` lie beside the data and hold one prompt template and one answer length a task; they are the
benchmark's own text and are read at run time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evaluations.rows.provenance import package_versions
from evaluations.tasks.text.base import Benchmark, TextItem
from evaluations.tasks.text.records import Record
from evaluations.tasks.text.source import FolderSource, open_source, template_places
from evaluations.tasks.text.templates import Template, find_file, read_table
from namm.errors import DataError
from namm.files import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS, LENGTHS = "dataset2prompt.json", "dataset2maxlen.json"


@dataclass(frozen=True)
class Metric:
    """A score of one answer against one reference, and what it is called in rows."""

    name: str
    """In a few words; docs/benchmarks.md has the whole of it."""

    score: Callable[[str, str], float]
    packages: tuple[str, ...] = ()
    """That compute it; their versions go into the row."""


class PromptedRecords(Benchmark):
    """Tasks whose rows and prompts have LongBench's form."""

    dataset: ClassVar[str]
    """On the Hub."""

    config_source: ClassVar[str]
    """Where the config folder is found, for the message when it is missing."""

    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """The prompts of a task, in the order of its data; see `Benchmark.items`."""
        source, template, longest = self._source, self._template(task), self._longest(task)
        return source.items(
            lambda record: self._item(task, record, template, longest), *self.file_names(task), limit=limit
        )

    @abstractmethod
    def metric(self, task: str) -> Metric:
        """How answers to a task are scored."""

    def file_names(self, task: str) -> tuple[str, ...]:
        """Names that the task's file goes by."""
        return (task,)

    def prompt_name(self, task: str) -> str:
        """The task's name in the config files."""
        return task

    def check(self, task: str, record: Record) -> dict[str, Any]:
        """What scoring needs of a record besides answers; raises a `DataError` where it is not there."""
        return {}

    def groups(self, record: Record) -> dict[str, str | int]:
        """What means are also taken by."""
        return {}

    def _item(self, task: str, record: Record, template: Template, longest: int) -> TextItem:
        document = record.text("context", empty=False)
        fields = {
            "context": document,
            # the mirror of LongBench in Parquet names its questions so
            "input": record.text("input", "question"),
            "dataset": task,
        }
        prompt, end = template.fill(fields)
        named = record.text("_id") if record.has("_id") else record.where.rsplit(":", 1)[-1]
        facts = {"language": record.text("language") if record.has("language") else "", **self.check(task, record)}
        answers = record.texts("answers")
        return TextItem(named, prompt, answers, longest, end, facts, self.groups(record), document)

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """The best score over the reference answers."""
        metric = self.metric(task)
        return max(metric.score(prediction, answer) for answer in item.answers)

    def protocol(self, task: str) -> Mapping[str, Any]:
        """See `Benchmark.protocol`; `data` and `revision` name the source."""
        metric = self.metric(task)
        digests = {"data": self._source.sha256(*self.file_names(task))}
        return {
            "benchmark": self.name,
            "task": task,
            "metric": metric.name,
            "max_new_tokens": self._longest(task),
            "generated": False,
            "truncation": "middle",
            "stop": [],
            "chat_template": False,
            "versions": package_versions(metric.packages),
            "data": self._source.name,
            "revision": self._source.revision,
            "sha256": {
                **digests,
                PROMPTS: file_sha256(self._config(PROMPTS)),
                LENGTHS: file_sha256(self._config(LENGTHS)),
            },
        }

    @cached_property
    def _source(self) -> FolderSource:
        return open_source(self.options.data, self.name, self.dataset)

    def _template(self, task: str) -> Template:
        path = self._config(PROMPTS)
        table = read_table(path, str, "a prompt template")
        name = self.prompt_name(task)
        if name not in table:
            raise DataError(
                f"{path}: expected a prompt template for {name!r}, found those of {', '.join(table) or '-'}; "
                "copy that file from its source, or pass another folder as templates"
            )
        template = Template(table[name], f"{path} ({name})")
        if template.fill({"context": "", "input": "", "dataset": ""})[1] is None:
            raise DataError(f"{path}: expected the field {{context}} in the template of {name!r}, found none")
        return template

    def _longest(self, task: str) -> int:
        path = self._config(LENGTHS)
        table = read_table(path, int, "the longest answer in tokens")
        name = self.prompt_name(task)
        if table.get(name, 0) < 1:
            raise DataError(
                f"{path}: expected a number of tokens above 0 for {name!r}, found {table.get(name, 'none')}"
            )
        return table[name]

    def _config(self, file: str) -> Path:
        given = self.options.templates
        if given is not None and Path(given).expanduser().is_file():
            given = Path(given).expanduser().parent
        return find_file(
            template_places(given, self._source, f"config/{file}", file),
            f"the prompt templates and answer lengths of {self.name}", f"copy the folder {self.config_source} "
            "beside the data, or pass it as templates"
        )  # fmt: skip
