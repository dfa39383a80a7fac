"""LongBench: 21 tasks in English, Chinese and code (Bai et al., ACL 2024), and its evenly long half, LongBench-E.

Scores as in the benchmark's own scripts: best over the references; four tasks judge the first line only. Prompts that
do not fit lose their middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from evaluations.tasks.text.base import TextItem
from evaluations.tasks.text.metrics import (
    classification_score,
    code_similarity,
    count_score,
    jieba_f1,
    retrieval_score,
    rouge_l,
    rouge_l_jieba,
    word_f1,
)
from evaluations.tasks.text.prompted_records import Metric, PromptedRecords
from evaluations.tasks.text.records import Record

WORD_F1 = Metric("word F1", word_f1)
ROUGE_L = Metric("ROUGE-L", rouge_l, ("rouge",))
CHINESE_F1 = Metric("F1 (jieba)", jieba_f1, ("jieba",))
CHINESE_ROUGE_L = Metric("ROUGE-L (jieba)", rouge_l_jieba, ("rouge", "jieba"))
CODE = Metric("code similarity", code_similarity)
COUNT = Metric("numbers right", count_score)

PARAGRAPH = {"passage_retrieval_en": "Paragraph ", "passage_retrieval_zh": "段落"}
"""What stands before the number in the references."""

METRICS = {
    "narrativeqa": WORD_F1, "qasper": WORD_F1, "multifieldqa_en": WORD_F1, "multifieldqa_zh": CHINESE_F1,
    "hotpotqa": WORD_F1, "2wikimqa": WORD_F1, "musique": WORD_F1, "dureader": CHINESE_ROUGE_L,
    "gov_report": ROUGE_L, "qmsum": ROUGE_L, "multi_news": ROUGE_L, "vcsum": CHINESE_ROUGE_L,
    "triviaqa": WORD_F1, "samsum": ROUGE_L, "passage_count": COUNT, "lcc": CODE, "repobench-p": CODE,
}  # fmt: skip

CLASSIFIED = ("trec", "lsht")
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
"""Tasks whose examples go on after the answer: only its first line is judged."""

STOPS_AT_NEWLINE = ("samsum",)
WITHOUT_CHAT_TEMPLATE = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")
"""Tasks of examples or code, which a chat model continues without its template."""

BUCKETS = ((4000, "0-4k"), (8000, "4-8k"))
"""LongBench-E's classes of `length`, by the first length above each; what is longer is "8k+"."""


TASKS = (
    "narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh", "hotpotqa", "2wikimqa", "musique", "dureader",
    "gov_report", "qmsum", "multi_news", "vcsum", "trec", "triviaqa", "samsum", "lsht", "passage_count",
    "passage_retrieval_en", "passage_retrieval_zh", "lcc", "repobench-p",
)  # fmt: skip


class _LongBenchTasks(PromptedRecords):
    """What LongBench and LongBench-E share."""

    dataset = "THUDM/LongBench"
    config_source = "LongBench/config of https://github.com/THUDM/LongBench"

    def metric(self, task: str) -> Metric:
        """How answers to a task are scored; the classes of a classification are its items'."""
        if task in CLASSIFIED:
            return Metric("class named", partial(classification_score, classes=()))
        if task in PARAGRAPH:
            return Metric(COUNT.name, partial(retrieval_score, label=PARAGRAPH[task]))
        return METRICS[task]

    def check(self, task: str, record: Record) -> dict[str, Any]:
        """Classes where a task has them; refuses rows of another task and references that nothing can match."""
        named = record.text("dataset") if record.has("dataset") else task
        if named.removesuffix("_e") != task and named.removesuffix("_e") in TASKS:
            raise record.fault(f"a row of {task}", f"one of {named} in 'dataset'")
        if task in PARAGRAPH:
            for answer in record.texts("answers"):
                try:
                    retrieval_score("", answer, PARAGRAPH[task])
                except ValueError:
                    raise record.fault(f"{PARAGRAPH[task]}NUMBER in each of 'answers'", repr(answer)) from None
        return {"classes": record.texts("all_classes")} if task in CLASSIFIED else {}

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """The best score over the references."""
        if task in FIRST_LINE:
            prediction = prediction.lstrip("\n").split("\n")[0]
        if task in CLASSIFIED:
            classes = item.facts["classes"]
            return max(classification_score(prediction, answer, classes) for answer in item.answers)
        return super().score(task, item, prediction)

    def protocol(self, task: str) -> Mapping[str, Any]:
        """See `Benchmark.protocol`."""
        return {
            **super().protocol(task),
            "stop": ["\n"] if task in STOPS_AT_NEWLINE else [],
            "judged": "first line" if task in FIRST_LINE else "whole answer",
            "chat_template": task not in WITHOUT_CHAT_TEMPLATE,
        }


class LongBench(_LongBenchTasks):
    """The 21 tasks."""

    name = "longbench"
    tasks = TASKS


class LongBenchE(_LongBenchTasks):
    """The 13 tasks of LongBench-E, drawn evenly over three classes of length."""

    name = "longbench-e"
    tasks = (
        "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "gov_report", "multi_news", "trec", "triviaqa", "samsum",
        "passage_count", "passage_retrieval_en", "lcc", "repobench-p",
    )  # fmt: skip

    def file_names(self, task: str) -> tuple[str, ...]:
        """The files of LongBench-E end in _e."""
        return (f"{task}_e",)

    def groups(self, record: Record) -> dict[str, str | int]:
        """Means are also taken by class of `length` (words, or characters of Chinese)."""
        length = record.integer("length")
        return {"length": next((name for above, name in BUCKETS if length < above), "8k+")}
