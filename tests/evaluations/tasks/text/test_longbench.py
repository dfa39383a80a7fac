"""LongBench and LongBench-E: rows, prompts, scores, and what is said of folders that are not as they should be."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from evaluations.tasks.text import BENCHMARKS, benchmark_tasks, make_benchmark
from namm.errors import ConfigError, DataError, UnknownNameError
from tests.evaluations.tasks.text.made_up_data import longbench_config, longbench_folder, longbench_row, write_lines

NO_TOKENIZER: Any = None


def items_of(folder: Path | str, task: str = "qasper", name: str = "longbench", **options: Any) -> Any:
    return make_benchmark(name, folder, **options).items(task, NO_TOKENIZER)


def error_of(folder: Path | str, task: str = "qasper", name: str = "longbench", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        items_of(folder, task, name, **options)
    return str(caught.value)


def test_prompts_are_the_template_filled_with_the_row(tmp_path: Path) -> None:
    item = items_of(longbench_folder(tmp_path))[1]
    row = longbench_row(1)
    assert item.prompt == f"Read this: {row['context']}\nNow say in a word: {row['input']}\nWord:"
    assert item.prompt[: item.context_end] == f"Read this: {row['context']}"
    assert (item.id, item.answers, item.max_new_tokens) == ("qasper-1", ("green", "dark green"), 16)


def test_the_score_is_the_best_over_the_references(tmp_path: Path) -> None:
    benchmark = make_benchmark("longbench", longbench_folder(tmp_path))
    item = benchmark.items("qasper", NO_TOKENIZER)[0]
    assert benchmark.score("qasper", item, "Dark green.") == 1.0
    assert benchmark.score("qasper", item, "light green") == pytest.approx(2 / 3)


def test_tasks_made_of_examples_judge_the_first_line_only(tmp_path: Path) -> None:
    rows = [longbench_row(0, "trec", answers=["Boat"], all_classes=["Boat", "Harbour"])]
    benchmark = make_benchmark("longbench", longbench_folder(tmp_path, "trec", rows))
    item = benchmark.items("trec", NO_TOKENIZER)[0]
    assert benchmark.score("trec", item, "\n\nBoat\nType: Harbour") == 1.0
    assert benchmark.score("trec", item, "Boat or Harbour") == 0.5
    triviaqa = make_benchmark("longbench", longbench_folder(tmp_path, "triviaqa"))
    item = triviaqa.items("triviaqa", NO_TOKENIZER)[0]
    assert triviaqa.score("triviaqa", item, "green\nPassage: a grey boat") == 1.0


def test_paragraph_numbers_are_told_from_other_numbers(tmp_path: Path) -> None:
    rows = [longbench_row(0, "passage_retrieval_zh", answers=["段落12"])]
    benchmark = make_benchmark("longbench", longbench_folder(tmp_path, "passage_retrieval_zh", rows))
    item = benchmark.items("passage_retrieval_zh", NO_TOKENIZER)[0]
    assert benchmark.score("passage_retrieval_zh", item, "段落12") == 1.0
    assert benchmark.score("passage_retrieval_zh", item, "12 or 1") == 0.5
    bad = longbench_folder(tmp_path, "passage_retrieval_en", [longbench_row(0, "passage_retrieval_en")])
    assert "passage_retrieval_en.jsonl:1: expected Paragraph NUMBER" in error_of(bad, "passage_retrieval_en")


def test_longbench_e_groups_by_length(tmp_path: Path) -> None:
    rows = [longbench_row(n, length=length) for n, length in enumerate((0, 3999, 4000, 7999, 8000))]
    items = items_of(longbench_folder(tmp_path, "qasper_e", rows), name="longbench-e")
    assert [item.groups["length"] for item in items] == ["0-4k", "0-4k", "4-8k", "4-8k", "8k+"]


@pytest.mark.parametrize("name", ["longbench", "longbench-e"])
def test_every_task_has_a_metric_and_a_protocol(tmp_path: Path, name: str) -> None:
    benchmark = make_benchmark(name, tmp_path)
    longbench_config(tmp_path / "config", BENCHMARKS[name].tasks)
    for task in benchmark.tasks:
        answers = {"passage_retrieval_en": ["Paragraph 3"], "passage_retrieval_zh": ["段落3"], "passage_count": ["3"]}
        row = longbench_row(0, task, answers=answers.get(task, ["green"]), all_classes=["green", "grey"])
        write_lines(tmp_path / f"{task}{'_e' if name.endswith('-e') else ''}.jsonl", [row])
        [item] = benchmark.items(task, NO_TOKENIZER)
        assert benchmark.score(task, item, row["answers"][0]) == pytest.approx(1.0)
        assert benchmark.score(task, item, "") == 0.0
        protocol = benchmark.protocol(task)
        assert json.loads(json.dumps(protocol)) == protocol
        assert {len(digest) for digest in protocol["sha256"].values()} == {64}
        assert "missing" not in protocol["versions"].values()
    assert len(benchmark.tasks) == {"longbench": 21, "longbench-e": 13}[name]


def test_the_protocol_of_longbench(tmp_path: Path) -> None:
    benchmark = make_benchmark("longbench", tmp_path)
    for task in benchmark.tasks:
        longbench_folder(tmp_path, task)
    longbench_config(tmp_path / "config", benchmark.tasks)
    protocols = {task: benchmark.protocol(task) for task in benchmark.tasks}
    assert {task for task, facts in protocols.items() if facts["stop"]} == {"samsum"}
    assert {task for task, facts in protocols.items() if not facts["chat_template"]} == {
        "trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p",
    }  # fmt: skip
    assert {facts["truncation"] for facts in protocols.values()} == {"middle"}
    assert protocols["vcsum"]["versions"].keys() == {"rouge", "jieba"}


def test_a_change_of_data_or_prompts_changes_the_protocol(tmp_path: Path) -> None:
    before = make_benchmark("longbench", longbench_folder(tmp_path)).protocol("qasper")
    longbench_folder(tmp_path, rows=[longbench_row(7)])
    (tmp_path / "config" / "dataset2prompt.json").write_text('{"qasper": "{context} {input}?"}')
    after = make_benchmark("longbench", tmp_path).protocol("qasper")
    differing = {name for name in before["sha256"] if before["sha256"][name] != after["sha256"][name]}
    assert differing == {"data", "dataset2prompt.json"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"input": "Which', "a line that breaks off"),
        ("not json", "expected one JSON object on the line"),
        ("[1, 2]", "expected one JSON object, found a list"),
        (longbench_row(9, context=None), "expected 'context', found null"),
        (longbench_row(9, context="  "), "found nothing but white space"),
        (longbench_row(9, input=3), "expected text in 'input', found the number 3"),
        (longbench_row(9, answers=[]), "expected at least 1 in 'answers', found 0"),
        (
            longbench_row(9, answers=["green", None]),
            "expected a list of texts in 'answers', found a list with null in it",
        ),
        (longbench_row(9, answers={"a": 1}), "expected a list of texts in 'answers', found an object"),
        (longbench_row(9, context="\ud800"), "half a surrogate pair"),
        (longbench_row(9, dataset="hotpotqa"), "expected a row of qasper, found one of hotpotqa"),
        (longbench_row(0), "expected an id of its own, found that of"),
        ({"context": "Boats."}, "expected 'input' or 'question', found the fields context"),
        ("[" * 100_000, "expected one JSON object on the line"),
        ("Gr\xfcn".encode("latin-1"), "expected UTF-8, found the byte 0xfc at place 3 of the line"),
    ],
)
def test_a_broken_line_is_told_with_file_and_line(tmp_path: Path, line: Any, told: str) -> None:
    if isinstance(line, dict) and line.get("context") == "\ud800":
        line = json.dumps(line)
    folder = longbench_folder(tmp_path, rows=[longbench_row(0), "", line, longbench_row(2)])
    message = error_of(folder)
    assert f"{tmp_path}/data/qasper.jsonl:3: expected" in message
    assert told in message


def test_all_broken_lines_are_told_at_once(tmp_path: Path) -> None:
    rows: list[Any] = [longbench_row(number) for number in range(20)]
    for place in range(3, 14):
        rows[place] = "{"
    message = error_of(longbench_folder(tmp_path, rows=rows))
    assert message.count("qasper.jsonl:") == 5
    assert "in 6 more places: 9, 10, 11, 12, 13, 14" in message
    assert "11 broken of 20 read" in message


def test_broken_lines_beyond_the_limit_do_not_matter(tmp_path: Path) -> None:
    folder = longbench_folder(tmp_path, rows=[longbench_row(0), "{"])
    assert len(make_benchmark("longbench", folder).items("qasper", NO_TOKENIZER, limit=1)) == 1


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_told(tmp_path: Path, content: bytes) -> None:
    folder = longbench_folder(tmp_path)
    (folder / "data" / "qasper.jsonl").write_bytes(content)
    assert "expected records in" in error_of(folder)
    (folder / "data" / "qasper.jsonl").write_bytes("{}".encode("utf-16"))
    assert "found the mark of UTF-16" in error_of(folder)


def test_a_mark_of_byte_order_does_no_harm(tmp_path: Path) -> None:
    folder = longbench_folder(tmp_path)
    path = folder / "data" / "qasper.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(items_of(folder)) == 3


def test_missing_files_are_told_with_where_to_get_them(tmp_path: Path) -> None:
    folder = longbench_folder(tmp_path)
    (folder / "config" / "dataset2maxlen.json").unlink()
    message = error_of(folder)
    assert f"{folder}/config/dataset2maxlen.json" in message
    assert "LongBench/config of https://github.com/THUDM/LongBench" in message
    assert "expected hotpotqa.jsonl" in error_of(longbench_folder_with_prompts(tmp_path), "hotpotqa")
    assert "found nothing at" in error_of(tmp_path / "nowhere")
    assert "pass its folder" in error_of(tmp_path / "data" / "qasper.jsonl")


def longbench_folder_with_prompts(folder: Path) -> Path:
    longbench_config(folder / "config", ["qasper", "hotpotqa"])
    return folder


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ('{"hotpotqa": "{context}"}', "expected a prompt template for 'qasper', found those of hotpotqa"),
        ('{"qasper": "Only {input}"}', "expected the field {context} in the template of 'qasper'"),
        ('{"qasper": "{context} {question}"}', "found {question}"),
        ('{"qasper": "{context.__class__}"}', "found {context.__class__}"),
        ('{"qasper": "{context!r:>9}"}', "found {context!r:>9}"),
        ('{"qasper": "{context"}', "expected a template with fields in braces"),
        ('{"qasper": 3}', "expected a JSON object with a prompt template a task"),
        ('{"qasper": \n"x" "y"}', "dataset2prompt.json:2: expected JSON"),
    ],
)
def test_a_template_that_cannot_be_filled_is_told_with_its_file(tmp_path: Path, prompts: str, told: str) -> None:
    folder = longbench_folder(tmp_path)
    (folder / "config" / "dataset2prompt.json").write_text(prompts)
    message = error_of(folder)
    assert "dataset2prompt.json" in message
    assert told in message


def test_rows_are_the_same_from_every_layout(tmp_path: Path) -> None:
    """jsonl in a folder, LongBench's archive, Parquet as mirrors have it (also in parts), a JSON list."""
    rows = [longbench_row(number) for number in range(3)]
    expected = items_of(longbench_folder(tmp_path / "jsonl"))
    for name in ("zip", "parquet", "list", "named"):
        longbench_config(tmp_path / name / "config", ["qasper"])
    with zipfile.ZipFile(tmp_path / "zip" / "data.zip", "w") as archive:
        archive.write(tmp_path / "jsonl" / "data" / "qasper.jsonl", "data/qasper.jsonl")
    parts = tmp_path / "parquet" / "qasper"
    parts.mkdir()
    for part, some in enumerate((rows[:2], rows[2:])):
        table = pyarrow.Table.from_pylist(some)
        pyarrow.parquet.write_table(table, parts / f"test-{part:05}-of-00002.parquet")
    (tmp_path / "list" / "qasper.json").write_text(json.dumps(rows))
    write_lines(tmp_path / "named" / "qasper.jsonl", [{**row, "question": row["input"], "input": None} for row in rows])
    for name in ("zip", "parquet", "list", "named"):
        assert items_of(tmp_path / name) == expected
    collection = tmp_path / "collection"
    collection.mkdir()
    (tmp_path / "jsonl").rename(collection / "longbench")
    assert items_of(collection) == expected


def test_a_damaged_archive_or_parquet_file_is_told(tmp_path: Path) -> None:
    longbench_config(tmp_path / "config", ["qasper"])
    (tmp_path / "data.zip").write_bytes(b"PK no")
    assert f"expected a zip archive at {tmp_path}/data.zip" in error_of(tmp_path)
    (tmp_path / "qasper.parquet").write_bytes(b"PAR1 no")
    assert f"{tmp_path}/qasper.parquet:row 1: expected a Parquet file" in error_of(tmp_path)


def test_the_hub_s_cache_is_read_like_a_folder_and_its_absence_is_told(tmp_path: Path) -> None:
    """With no network: what was fetched before is found in the cache; else the message says how to fetch it."""
    snapshot = tmp_path / "hub" / "datasets--made-up--boats" / "snapshots" / "abc123"
    write_lines(snapshot / "data" / "qasper.jsonl", [longbench_row(0)])
    write_lines(tmp_path / "hub" / "datasets--made-up--boats" / "refs" / "main", ["abc123"])
    (tmp_path / "hub" / "datasets--made-up--boats" / "refs" / "main").write_text("abc123")
    config = longbench_config(tmp_path / "config", ["qasper"])
    code = (
        "import sys\nfrom evaluations.tasks.text import make_benchmark\nfrom namm.errors import DataError\n"
        "found = make_benchmark('longbench', 'made-up/boats', templates=sys.argv[1])\n"
        "print(found.items('qasper', None)[0].id, found.protocol('qasper')['revision'])\n"
        "try: make_benchmark('longbench', 'made-up/cars', templates=sys.argv[1]).items('qasper', None)\n"
        "except DataError as error: print(error)\n"
    )
    environment = {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "qasper-0 abc123"
    assert "expected the dataset made-up/cars on the Hub or in its local cache, found neither" in second
    assert "hf download made-up/cars --repo-type dataset" in second


def test_names_of_tasks() -> None:
    assert benchmark_tasks(["longbench/qasper"]) == [("longbench", "qasper")]
    assert benchmark_tasks(["longbench_e/trec,lcc", "LongBench/qasper"]) == [
        ("longbench-e", "trec"), ("longbench-e", "lcc"), ("longbench", "qasper"),
    ]  # fmt: skip
    assert len(benchmark_tasks(["longbench", "longbench/qasper"])) == 21
    with pytest.raises(UnknownNameError, match=r"no task 'quasper'. Did you mean 'qasper'"):
        benchmark_tasks(["longbench/quasper"])
    with pytest.raises(UnknownNameError, match=r"no benchmark 'longbnch'. Did you mean 'longbench"):
        benchmark_tasks(["longbnch"])


def test_templates_of_the_harness_are_not_longbench_s(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longbench's own prompt templates, found templates=lm_eval"):
        make_benchmark("longbench", tmp_path, templates="lm_eval")
