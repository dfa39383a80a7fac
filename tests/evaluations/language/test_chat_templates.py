"""Prompts of benchmarks in a chat template: they fit with their answer, and a row is of one template."""

from __future__ import annotations

from pathlib import Path

from evaluations.language.benchmark_exams import BenchmarkExam, Reading
from evaluations.tasks.text import make_benchmark
from tests.evaluations.tasks.text.test_fitted import TEMPLATES, tokenizer


def test_every_prompt_of_a_benchmark_fits_with_its_answer(longbench: Path) -> None:
    for template in TEMPLATES.values():
        own = tokenizer(template)
        exam = BenchmarkExam(
            make_benchmark("longbench", longbench), "qasper", own, frozenset(), Reading(256, chat_template=True)
        )
        asked = exam.prompts(0)
        assert asked.facts["prompts_cut"] > 0
        assert all(prompt.tokens + prompt.new_tokens <= 256 for prompt in asked.prompts)
    other = BenchmarkExam(
        make_benchmark("longbench", longbench), "qasper", tokenizer(TEMPLATES["plain"]), frozenset(), Reading(256, True)
    )
    assert exam.identity()["chat_template_sha256"] != other.identity()["chat_template_sha256"]
