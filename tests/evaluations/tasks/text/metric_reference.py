"""Makes metric_cases.json: scores of stored texts by the packages that the benchmarks' own scripts use.

    python -m venv /tmp/reference
    /tmp/reference/bin/pip install fuzzywuzzy==0.18.0 rouge==1.0.1 rouge_score==0.1.2 jieba fugashi unidic-lite lm_eval
    cd tests/evaluations/tasks/text && /tmp/reference/bin/python metric_reference.py metric_cases.json

An environment of its own, because fuzzywuzzy gives other numbers where python-Levenshtein is installed. lm_eval's
LongBench metrics are LongBench's with one change, in the similarity of code, which is therefore made of its parts here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import jieba
from fugashi import Tagger
from fuzzywuzzy import fuzz
from rouge import Rouge
from rouge_score import rouge_scorer

ENGLISH = (
    "The river rose two metres in the night.", "two metres", "It rose in the night. Nobody in the village slept.",
    "a an the", "", "...", "The Harbour office (opened 1911) moved to Quay Street, and again in 1954.",
    "rose rose rose", "Nobody slept\nin the village.\nThe river rose.", " ", "Two  METRES!", "an other-worldly river",
)  # fmt: skip
CHINESE = (
    "河水在夜里上涨了两米。", "上涨了两米", "村里没有人睡觉，因为河水上涨。", "《河》", "",
    "图书馆于1911年开放，1954年搬迁。", "河 水·上涨（两米）",
)  # fmt: skip
JAPANESE = (
    "川は夜の間に二メートル上昇した。", "二メートル", "村では誰も眠らなかった。川が上昇したからだ。", "",
    "図書館は1911年に開館し、1954年に移転した。",
)  # fmt: skip
CODE = (
    "    return total / count", "return total", "x = 1\n    return total / count", "# a comment\n    return total",
    "\n\n    for name in names:", "", "`", "for (int i = 0; i < n; i++) // loop\n  sum += i;",
    "def area(self):\n    return self.width", "   \nreturn total",
)  # fmt: skip
LINES = ("    return total / count", "for name in names:", "return self.width", "sum += i;", "")
CLASSES = ("Place", "Place of birth", "Person", "Date of birth", "birth")
NAMING = ("Place of birth", "Place", "a Person, a Place", "nothing", "Date of birth or Place of birth", "birth", "")
NUMBERING = ("Paragraph 3", "3", "3 or 4", "13", "It is in paragraph 3, not 4.", "段落3", "none", "3 3")


def scores(texts: Iterable[str], references: Iterable[str], score: Callable[[str, str], float]) -> list[list[object]]:
    return [[text, reference, float(score(text, reference))] for text in texts for reference in references]


def main(path: str) -> None:
    jieba.setLogLevel(40)
    tagger, rouge = Tagger("-Owakati"), Rouge()
    google = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=False)
    longbench = _longbench_metrics()

    def rouge_l(text: str, reference: str) -> float:
        try:
            return rouge.get_scores([text], [reference], avg=True)["rouge-l"]["f"]
        except (ValueError, RecursionError):
            return 0.0

    def japanese(text: str) -> str:
        return " ".join(word.surface for word in tagger(text))

    def chinese(text: str) -> str:
        return " ".join(jieba.cut(text, cut_all=False))

    def first_line(text: str) -> str:
        lines = text.lstrip("\n").split("\n")
        return next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")

    drawn = random.Random(3).choices("abcdefgh", k=1400)
    cases = {
        "word_f1": scores(ENGLISH, ENGLISH, longbench.qa_f1_score),
        "jieba_f1": scores(CHINESE, CHINESE, longbench.qa_f1_zh_score),
        "japanese_f1": scores(
            JAPANESE, JAPANESE, lambda t, r: longbench.f1_score(japanese(t).split(), japanese(r).split())
        ),
        "rouge_l": scores(ENGLISH, ENGLISH, rouge_l),
        "rouge_l_jieba": scores(CHINESE, CHINESE, lambda t, r: rouge_l(chinese(t), chinese(r))),
        "rouge_l_japanese": scores(JAPANESE, JAPANESE, lambda t, r: rouge_l(japanese(t), japanese(r))),
        "rouge_lsum": scores(ENGLISH, ENGLISH, lambda t, r: google.score(r, t)["rougeLsum"].fmeasure),
        "code_similarity": scores(CODE, LINES, lambda t, r: fuzz.ratio(first_line(t), r) / 100),
        "classification_score": scores(
            NAMING, CLASSES, lambda t, r: longbench.classification_score(t, r, all_classes=list(CLASSES))
        ),
        "count_score": scores(NUMBERING, ("3", "13"), longbench.count_score),
        "retrieval_score": scores(NUMBERING, ("Paragraph 3", "Paragraph 13"), longbench.retrieval_score),
        "retrieval_score_zh": scores(NUMBERING, ("段落3", "段落13"), longbench.retrieval_zh_score),
    }
    sentences = {
        str(words): rouge_l(" ".join(drawn[:words]), " ".join(reversed(drawn[:words])))
        for words in (300, 600, 900, 1300)
    }
    packages = ("fuzzywuzzy", "rouge", "rouge_score", "jieba", "fugashi", "unidic-lite", "lm_eval")
    stored = {
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "classes": CLASSES,
        "cases": cases,
        "long_sentences": {"words": "".join(drawn), "scores": sentences},
    }
    Path(path).write_text(json.dumps(stored, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def _longbench_metrics() -> object:
    folder = Path(importlib.util.find_spec("lm_eval").origin).parent
    spec = importlib.util.spec_from_file_location("metrics", folder / "tasks" / "longbench" / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(sys.argv[1])
