"""What holds of every benchmark, on a tiny folder of its exact layout and schema."""

from __future__ import annotations

import json

import pytest
from transformers import PreTrainedTokenizerFast

from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER
from evaluations.tasks.text import BENCHMARKS, Benchmark, benchmark_tasks
from tests.evaluations.tasks.text.made_up_data import made_up_benchmark, perfect_answers

TOKENIZER = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER_FOLDER / "tokenizer.json"))
ALL = [(name, task) for name in BENCHMARKS for task in BENCHMARKS[name].tasks]
GENERATED = ("ruler", "niah", "documents")


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Benchmark]:
    return {name: made_up_benchmark(name, tmp_path_factory.mktemp(name)) for name in BENCHMARKS}


def test_the_benchmarks_of_the_paper_and_the_long_context_ones_are_there() -> None:
    tasks = {name: len(kind.tasks) for name, kind in BENCHMARKS.items()}
    assert tasks == {
        "longbench": 21, "longbench-e": 13, "longbench-v2": 6, "infinitebench": 12, "choubun": 4, "ruler": 13,
        "niah": 1, "babilong": 20, "documents": 2,
    }  # fmt: skip
    assert len(benchmark_tasks(list(BENCHMARKS))) == sum(tasks.values())


@pytest.mark.parametrize(("name", "task"), ALL)
def test_a_task(benchmarks: dict[str, Benchmark], name: str, task: str) -> None:
    """Items with names of their own, whose context ends where it ends; scores from 0 to 1; the same items again."""
    benchmark = benchmarks[name]
    items = benchmark.items(task, TOKENIZER)
    assert items
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert max(benchmark.score(task, item, answer) for answer in perfect_answers(item)) == pytest.approx(1.0)
        assert benchmark.score(task, item, "") == 0.0
        assert benchmark.score(task, item, "\n") == 0.0
        assert item.max_new_tokens > 0
        assert item.context_end is None or 0 < item.context_end <= len(item.prompt)
        assert json.loads(json.dumps(dict(item.groups))) == item.groups
    assert type(benchmark)(benchmark.options).items(task, TOKENIZER) == items


@pytest.mark.parametrize(("name", "task"), ALL)
def test_the_protocol_of_a_task_says_what_decides_its_score(
    benchmarks: dict[str, Benchmark], name: str, task: str
) -> None:
    protocol = benchmarks[name].protocol(task)
    assert json.loads(json.dumps(protocol)) == protocol
    always = "benchmark task metric generated truncation stop chat_template max_new_tokens versions sha256"
    assert set(always.split()) <= set(protocol)
    assert protocol["generated"] == (name in GENERATED)
    assert (protocol["benchmark"], protocol["task"]) == (name, task)
    assert all(len(digest) == 64 for digest in protocol["sha256"].values())
    assert "missing" not in protocol["versions"].values()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_limit_takes_the_first(benchmarks: dict[str, Benchmark], name: str) -> None:
    task = BENCHMARKS[name].tasks[0]
    benchmark = benchmarks[name]
    few, all_items = benchmark.items(task, TOKENIZER, limit=1), benchmark.items(task, TOKENIZER)
    cells = len({tuple(item.groups.items()) for item in all_items}) if name in GENERATED else 1
    assert len(few) == cells < len(all_items)
    assert {item.id for item in few} <= {item.id for item in all_items}
    assert few[0] == all_items[0]


@pytest.mark.parametrize("name", GENERATED)
def test_what_is_generated_depends_on_the_seed_alone(benchmarks: dict[str, Benchmark], name: str) -> None:
    task = BENCHMARKS[name].tasks[0]
    first, again, other = (benchmarks[name].items(task, TOKENIZER, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert all(mine.prompt != theirs.prompt for mine, theirs in zip(first, other, strict=True))
