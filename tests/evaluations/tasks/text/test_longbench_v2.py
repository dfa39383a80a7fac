"""LongBench v2: questions by category, means by difficulty and length, and broken rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluations.tasks.text import make_benchmark
from evaluations.tasks.text.longbench_v2 import DOMAINS
from namm.errors import DataError
from tests.evaluations.tasks.text.made_up_data import longbench_v2_folder, longbench_v2_row

NO_TOKENIZER: Any = None
CODE = DOMAINS["code_repository"]


def items_of(folder: Path, task: str = "code_repository") -> Any:
    return make_benchmark("longbench-v2", folder).items(task, NO_TOKENIZER)


def test_a_category_has_its_questions_only_and_groups_them(tmp_path: Path) -> None:
    rows = [longbench_v2_row(number, domain) for number, domain in enumerate([CODE, "Single-Document QA", CODE])]
    items = items_of(longbench_v2_folder(tmp_path, rows))
    assert [item.id for item in items] == ["v2-0", "v2-2"]
    assert items[1].groups == {"difficulty": "easy", "length": "long"}


def test_prompts_are_the_file_with_its_marks_filled(tmp_path: Path) -> None:
    item = items_of(longbench_v2_folder(tmp_path, [longbench_v2_row(0, CODE)]))[0]
    context = longbench_v2_row(0, CODE)["context"].strip()
    assert item.prompt[: item.context_end] == f"Text: {context}"
    assert "A red B green C grey D blue" in item.prompt


def test_a_mark_within_a_document_is_filled_as_the_benchmark_fills_it(tmp_path: Path) -> None:
    item = items_of(longbench_v2_folder(tmp_path, [longbench_v2_row(0, CODE, context="The set $Q$ is closed.")]))[0]
    assert "The set Which colour has the boat? is closed." in item.prompt
    assert item.context_end is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"domain": "Cooking"}, "expected one of Single-Document QA"),
        ({"difficulty": "medium"}, "expected one of easy, hard in 'difficulty', found 'medium'"),
        ({"answer": "E"}, "expected one of A, B, C, D in 'answer'"),
        ({"choice_C": None}, "expected 'choice_C', found null"),
    ],
)
def test_a_broken_row_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    folder = longbench_v2_folder(tmp_path, [longbench_v2_row(0, CODE), longbench_v2_row(1, CODE, **changes)])
    with pytest.raises(DataError) as caught:
        items_of(folder)
    assert "data.json:row 2: expected" in str(caught.value)
    assert told in str(caught.value)


def test_a_prompt_without_a_mark_is_told(tmp_path: Path) -> None:
    folder = longbench_v2_folder(tmp_path)
    (folder / "prompts" / "0shot.txt").write_text("$DOC$ $Q$ $C_A$ $C_B$ $C_C$")
    with pytest.raises(DataError, match=r"0shot.txt: expected the marks .* found no \$C_D\$"):
        items_of(folder)
