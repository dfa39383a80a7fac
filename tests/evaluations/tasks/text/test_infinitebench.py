"""InfiniteBench: prompts read out of a Python file that is not run, answers of many types, and broken rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluations.tasks.text import make_benchmark
from namm.errors import ConfigError, DataError
from tests.evaluations.tasks.text.made_up_data import infinitebench_folder, write_lines

NO_TOKENIZER: Any = None


def prompt_of(folder: Path, task: str, **options: Any) -> str:
    return make_benchmark("infinitebench", folder, **options).items(task, NO_TOKENIZER)[0].prompt


def test_prompts_are_filled_with_what_the_benchmark_takes_from_a_row(tmp_path: Path) -> None:
    folder = infinitebench_folder(tmp_path)
    assert prompt_of(folder, "code_run").endswith(" func_3 func_3(-5)")
    assert prompt_of(folder, "longbook_choice_eng").endswith(" Who sails? Anna Berta Carla Dora")
    asked = "What is the second largest number in the following list? The second largest number of this list is:"
    assert prompt_of(folder, "math_find").endswith(asked)


def test_the_set_of_prompts_is_chosen_and_told(tmp_path: Path) -> None:
    folder = infinitebench_folder(tmp_path)
    with (folder / "src" / "prompt.py").open("a") as file:
        file.write("gpt4_templates = {'passkey': 'Look: {context} {input}'}\n")
    assert prompt_of(folder, "passkey", prompt_set="gpt4").startswith("Look: ")
    with pytest.raises(DataError, match="expected a prompt for kv_retrieval in gpt4_templates"):
        prompt_of(folder, "kv_retrieval", prompt_set="gpt4")
    with pytest.raises(DataError, match="expected the prompts claude2_templates, found yarn_mistral, gpt4"):
        prompt_of(folder, "passkey", prompt_set="claude2")
    with pytest.raises(ConfigError, match="found templates=lm_eval"):
        prompt_of(folder, "passkey", templates="lm_eval")
    (folder / "src" / "prompt.py").write_text("yarn_mistral_templates = {\n")
    with pytest.raises(DataError, match=r"prompt.py: expected a Python file with templates"):
        prompt_of(folder, "passkey")
    (folder / "src" / "prompt.py").unlink()
    with pytest.raises(DataError, match=r"copy src/prompt.py of https://github.com/OpenBMB/InfiniteBench"):
        prompt_of(folder, "passkey")


@pytest.mark.parametrize(
    ("task", "changes", "told"),
    [
        ("code_debug", {"answer": "no_such"}, "expected one of 'options' in 'answer', found 'no_such'"),
        ("code_debug", {"options": ["a", "b"]}, "expected at least 4 in 'options', found 2"),
        ("math_find", {"answer": ["many"]}, "expected numbers in 'answer'"),
        ("math_find", {"input": "Find it."}, "expected 'The ... of' in 'input'"),
        ("code_run", {"input": "func_3"}, "expected a call such as func_7"),
        ("passkey", {"answer": None}, "expected 'answer', found null"),
        ("passkey", {"context": ""}, "nothing but white space"),
    ],
)
def test_a_broken_row_is_told(tmp_path: Path, task: str, changes: dict[str, Any], told: str) -> None:
    folder = infinitebench_folder(tmp_path)
    options = ["a", "load_boat", "b", "c"]
    row = {"id": 7, "context": "Lines.", "input": "The largest of: func_1(2)", "answer": ["3"], "options": options}
    if task == "code_debug":
        row["answer"] = "load_boat"
    write_lines(folder / f"{task}.jsonl", [row, {**row, **changes}])
    with pytest.raises(DataError) as caught:
        make_benchmark("infinitebench", folder).items(task, NO_TOKENIZER)
    assert f"{task}.jsonl:2: expected" in str(caught.value)
    assert told in str(caught.value)


def test_a_letter_beside_the_answer_is_the_label(tmp_path: Path) -> None:
    folder = infinitebench_folder(tmp_path)
    row = {"context": "x", "input": "", "answer": ["load_boat", "B"], "options": ["a", "load_boat", "b", "c"]}
    write_lines(folder / "code_debug.jsonl", [row])
    assert make_benchmark("infinitebench", folder).items("code_debug", NO_TOKENIZER)[0].answers == ("load_boat", "B")
