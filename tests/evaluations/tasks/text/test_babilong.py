"""BABILong: two protocols, lengths by name, and what is said of folders without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluations.tasks.text import make_benchmark
from evaluations.tasks.text.harness_prompts import read_harness_prompt
from namm.errors import ConfigError, DataError
from tests.evaluations.tasks.text.made_up_data import babilong_folder

NO_TOKENIZER: Any = None


def own_prompts(folder: Path) -> Path:
    """prompts.py and metrics.py of the benchmark's own form."""
    folder.mkdir()
    (folder / "prompts.py").write_text(
        "DEFAULT_TEMPLATE = '{instruction}\\n{examples}\\n{post_prompt}\\n<context>{context}</context> {question}'\n"
        "DEFAULT_PROMPTS = {'qa1': {'instruction': 'Find ' 'it.', 'examples': 'Like {this}.', 'post_prompt': 'Now:'}}\n"
    )
    (folder / "metrics.py").write_text("TASK_LABELS = {'qa1': {'garden', 'kitchen', 'office'}}\n")
    return folder


def test_the_harness_s_prompt_stands_before_the_question(tmp_path: Path) -> None:
    item = make_benchmark("babilong", babilong_folder(tmp_path)).items("qa1", NO_TOKENIZER)[0]
    before = read_harness_prompt("babilong", "babilong_qa1").before
    assert before.count("\n\n") == 3
    assert item.prompt == before + "Waves. Anna went to the garden. Waves.\nWhere is Anna?"
    assert item.prompt[: item.context_end].endswith("Waves.")
    assert (item.id, item.groups) == ("4k-1", {"length": "4k"})


def test_the_harness_counts_a_target_anywhere_and_the_benchmark_only_alone(tmp_path: Path) -> None:
    harness = make_benchmark("babilong", babilong_folder(tmp_path / "data"))
    own = make_benchmark("babilong", tmp_path / "data", templates=own_prompts(tmp_path / "own"))
    for benchmark, both in ((harness, 1.0), (own, 0.0)):
        item = benchmark.items("qa1", NO_TOKENIZER)[0]
        assert benchmark.score("qa1", item, "The Garden. Or the office.") == 1.0
        assert benchmark.score("qa1", item, "garden or office") == both
        assert benchmark.score("qa1", item, "kitchen") == 0.0
    assert own.items("qa1", NO_TOKENIZER)[0].prompt == (
        "Find it.\nLike {this}.\nNow:\n<context>Waves. Anna went to the garden. Waves.</context> Where is Anna?"
    )
    assert own.protocol("qa1")["metric"] != harness.protocol("qa1")["metric"]
    assert {"prompts.py", "metrics.py"} <= set(own.protocol("qa1")["sha256"])


def test_what_the_benchmark_s_own_files_lack_is_told(tmp_path: Path) -> None:
    own = make_benchmark("babilong", babilong_folder(tmp_path / "data"), templates=own_prompts(tmp_path / "own"))
    with pytest.raises(DataError, match=r"metrics.py: expected TASK_LABELS\['qa2'\]"):
        own.items("qa2", NO_TOKENIZER)
    (tmp_path / "own" / "metrics.py").unlink()
    with pytest.raises(DataError, match="copy the folder babilong of"):
        make_benchmark("babilong", tmp_path / "data", templates=tmp_path / "own").items("qa1", NO_TOKENIZER)


def test_lengths_are_those_of_the_data(tmp_path: Path) -> None:
    folder = babilong_folder(tmp_path)
    for length in (4000, 4096):
        assert len(make_benchmark("babilong", folder, lengths=(length,)).items("qa1", NO_TOKENIZER)) == 2
    with pytest.raises(ConfigError, match="expected lengths that BABILong has"):
        make_benchmark("babilong", folder, lengths=(5000,)).items("qa1", NO_TOKENIZER)
    with pytest.raises(DataError, match=r"expected 8k.jsonl"):
        make_benchmark("babilong", folder, lengths=(8192,)).items("qa1", NO_TOKENIZER)
