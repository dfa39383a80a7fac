"""BABILong: the 20 bAbI tasks, their facts strewn into books (Kuratov et al., NeurIPS 2024).

There are two protocols, and they give different numbers. With the prompts of lm-evaluation-harness (the default, read
from its installed files) an answer counts if the target appears in it. With the benchmark's own prompts.py and
metrics.py it counts if, in its first sentence, the target is the only one of the task's labels that the question does
not name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluations.rows.provenance import package_versions
from evaluations.tasks.text.base import Benchmark, TextItem
from evaluations.tasks.text.harness_prompts import HarnessPrompt, read_harness_prompt
from evaluations.tasks.text.metrics import only_label, string_match_any
from evaluations.tasks.text.records import Record
from evaluations.tasks.text.source import FolderSource, open_source
from evaluations.tasks.text.templates import Template, find_file, read_constants
from namm.errors import ConfigError, DataError
from namm.files import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LENGTHS = ("0k", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1M", "2M", "10M")
OWN_MAX_NEW_TOKENS = 20
PARTS = ("instruction", "examples", "post_prompt")


class BabiLong(Benchmark):
    """The 20 tasks, at the lengths that `lengths` names (4096 or 4000 for 4k, and so on)."""

    name = "babilong"
    tasks = tuple(f"qa{number}" for number in range(1, 21))
    in_harness = True

    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """The questions of a task, length after length, in the order of the data; see `Benchmark.items`."""
        items: list[TextItem] = []
        for tokens in self.options.lengths:
            length = _length_name(tokens)

            def build(record: Record, length: str = length) -> TextItem:
                place = record.where.rsplit(":", 1)[-1].removeprefix("row ")
                return self._item(task, f"{length}-{place}", record, length)

            items += self._source.items(build, length, f"{task}/{length}", split=task, limit=limit)
        return items

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """By the rule that belongs to the prompts."""
        if self._own is None:
            return string_match_any(prediction, item.answers)
        return only_label(prediction, item.answers[0], item.facts["question"], item.facts["labels"])

    def protocol(self, task: str) -> Mapping[str, Any]:
        """See `Benchmark.protocol`."""
        own = self._own
        prompts = {
            path.name: file_sha256(path) for path in (own or (self._harness(task).path,)) if isinstance(path, Path)
        }
        data = {
            f"data {length}": self._source.sha256(length, f"{task}/{length}", split=task)
            for length in map(_length_name, self.options.lengths)
        }
        return {
            "benchmark": self.name,
            "task": task,
            "metric": "target in answer" if own is None else "only label in first sentence",
            "max_new_tokens": OWN_MAX_NEW_TOKENS if own else self._harness(task).max_new_tokens,
            "generated": False,
            "truncation": "middle",
            "stop": [],
            "chat_template": True,
            "versions": package_versions(("lm_eval",) if own is None else ()),
            "data": self._source.name,
            "revision": self._source.revision,
            "lengths": [_length_name(tokens) for tokens in self.options.lengths],
            "sha256": {**data, **prompts},
        }

    def _item(self, task: str, name: str, record: Record, length: str) -> TextItem:
        context, question = record.text("input").strip(), record.text("question").strip()
        target = record.text("target", empty=False).strip()
        groups: dict[str, str | int] = {"length": length}
        if self._own is None:
            prompt = self._harness(task)
            text, end = prompt.fill({"input": context, "question": question}, "input")
            return TextItem(name, text, (target,), prompt.max_new_tokens, end, groups=groups, document=context)
        facts = {"question": question, "labels": self._labels(task)}
        text, end = self._template(task).fill({"context": context, "question": question})
        return TextItem(name, text, (target,), OWN_MAX_NEW_TOKENS, end, facts, groups, context)

    @cached_property
    def _source(self) -> FolderSource:
        return open_source(self.options.data, self.name, "RMT-team/babilong")

    @cached_property
    def _own(self) -> tuple[Path, Path] | None:
        """The benchmark's own prompts.py and metrics.py, where the user names them."""
        if self.options.templates in (None, "lm_eval"):
            return None
        given = Path(str(self.options.templates)).expanduser()
        folder = given.parent if given.is_file() else given
        where = "copy the folder babilong of https://github.com/booydar/babilong, or leave templates out for lm_eval's"
        prompts, metrics = (
            find_file([folder / name, folder / "babilong" / name], f"BABILong's {name}", where)
            for name in ("prompts.py", "metrics.py")
        )
        return prompts, metrics

    def _harness(self, task: str) -> HarnessPrompt:
        return read_harness_prompt("babilong", f"babilong_{task}")

    def _template(self, task: str) -> Template:
        path = self._own[0] if self._own else Path()
        constants = read_constants(path)
        template, parts = constants.get("DEFAULT_TEMPLATE"), constants.get("DEFAULT_PROMPTS", {}).get(task)
        if not isinstance(template, str) or not isinstance(parts, dict) or not set(PARTS) <= set(parts):
            raise DataError(f"{path}: expected DEFAULT_TEMPLATE and DEFAULT_PROMPTS[{task!r}], found no such texts")
        # the parts are put in as text, so that braces in them stay what they are
        for part in PARTS:
            template = template.replace("{" + part + "}", parts[part].replace("{", "{{").replace("}", "}}"))
        return Template(template.strip(), f"{path} ({task})")

    def _labels(self, task: str) -> tuple[str, ...]:
        path = self._own[1] if self._own else Path()
        labels = read_constants(path).get("TASK_LABELS", {}).get(task)
        if not labels:
            raise DataError(
                f"{path}: expected TASK_LABELS[{task!r}], found none; leave templates out for lm_eval's rule"
            )
        return tuple(sorted(labels))


def _length_name(tokens: int) -> str:
    for name in LENGTHS:
        number, unit = int(name[:-1]), 1 if name.endswith("k") else 1000
        if tokens in (number * unit * 1000, number * unit * 1024, number * 1024 * (1024 if unit > 1 else 1)):
            return name
    raise ConfigError(f"expected lengths that BABILong has ({', '.join(LENGTHS)}), found {tokens} tokens")
