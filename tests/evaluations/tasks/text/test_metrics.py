"""Metrics equal the numbers of the packages and scripts that the benchmarks themselves use (metric_reference.py)."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluations.tasks.text import metrics
from evaluations.tasks.text.metrics import (
    chosen_letter,
    infinitebench,
    rouge_l,
    string_match_all,
    string_match_any,
    word_f1,
)

STORED: dict[str, Any] = json.loads((Path(__file__).parent / "metric_cases.json").read_text("utf-8"))
LABELLED = {"retrieval_score": "Paragraph ", "retrieval_score_zh": "段落"}


@pytest.mark.parametrize("name", STORED["cases"])
def test_a_metric_equals_its_reference(name: str) -> None:
    score: Callable[..., float] = getattr(metrics, name.removesuffix("_zh"))
    more = {"classes": STORED["classes"]} if name == "classification_score" else {}
    more |= {"label": LABELLED[name]} if name in LABELLED else {}
    for text, reference, expected in STORED["cases"][name]:
        assert score(text, reference, **more) == pytest.approx(expected, abs=1e-12), (text, reference)


def test_the_stored_numbers_are_of_the_packages_installed_here() -> None:
    for package in ("rouge", "rouge_score", "jieba", "unidic-lite"):
        assert importlib.metadata.version(package) == STORED["versions"][package]


@pytest.mark.slow
def test_sentences_that_rouge_cannot_recurse_through_score_0_at_any_depth_of_calls() -> None:
    """Else a score would depend on how deep the harness that asks for it is nested."""
    words = STORED["long_sentences"]["words"]

    def deep(levels: int, text: str, reference: str) -> float:
        return deep(levels - 1, text, reference) if levels else rouge_l(text, reference)

    for length, expected in STORED["long_sentences"]["scores"].items():
        text, reference = " ".join(words[: int(length)]), " ".join(reversed(words[: int(length)]))
        assert rouge_l(text, reference) == pytest.approx(expected)
        assert deep(500, text, reference) == pytest.approx(expected)


def test_words_are_compared_without_case_articles_and_punctuation() -> None:
    assert word_f1("The Harbour!", "a harbour") == 1.0
    assert word_f1("harbour office", "harbour") == pytest.approx(2 / 3)


def test_ruler_counts_references_and_its_questions_need_one() -> None:
    assert string_match_all("Amber-Kettle\x00and 7", ["amber-kettle", "8"]) == 0.5
    assert string_match_any("it is the kettle", ["lamp", "Kettle"]) == 1.0
    assert string_match_any("nothing", ["lamp", "kettle"]) == 0.0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("The correct answer is (B)", "B"), ("**The correct answer is C**", "C"), ("B", None), ("The answer is B", None),
     ("The correct answer is A, no: The correct answer is (D).", "D"), ("The correct answer is E", None)],
)  # fmt: skip
def test_a_letter_counts_only_in_the_sentence_that_longbench_v2_asks_for(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


INFINITEBENCH: dict[str, Any] = json.loads((Path(__file__).parent / "infinitebench_cases.json").read_text("utf-8"))


@pytest.mark.parametrize("name", INFINITEBENCH["cases"])
def test_a_rule_of_infinitebench_equals_its_script(name: str) -> None:
    cases = INFINITEBENCH["cases"][name]
    for answer, expected in cases["answers"]:
        assert getattr(infinitebench, name)(answer, *cases["label"]) == expected, answer


def test_what_stops_infinitebench_s_script_is_wrong_here() -> None:
    assert infinitebench.first_number("4.2", "4") == 0.0
    assert infinitebench.last_integer("forty", "40") == 0.0
