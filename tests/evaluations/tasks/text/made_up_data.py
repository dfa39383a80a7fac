"""Tiny folders in the exact layout and schema of the benchmarks, with words of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from evaluations.tasks.text import BENCHMARKS, Benchmark, TextItem, make_benchmark
from evaluations.tasks.text.longbench_v2 import DOMAINS


def write_lines(path: Path, rows: Sequence[dict[str, Any] | str | bytes]) -> Path:
    """One row a line; a row that is text or bytes is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else _json(row) for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def longbench_row(number: int, dataset: str = "qasper", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "input": f"Which colour has boat {number}?",
        "context": f"Boat {number} is green. " + "The harbour lies quiet. " * 5,
        "answers": ["green", "dark green"],
        "length": 30 + number,
        "dataset": dataset,
        "language": "en",
        "all_classes": None,
        "_id": f"{dataset}-{number}",
    }
    return {**row, **changes}


def longbench_config(folder: Path, tasks: Sequence[str], longest: int = 16) -> Path:
    template = "Read this: {context}\nNow say in a word: {input}\nWord:"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset2prompt.json").write_text(json.dumps(dict.fromkeys(tasks, template)), encoding="utf-8")
    (folder / "dataset2maxlen.json").write_text(json.dumps(dict.fromkeys(tasks, longest)), encoding="utf-8")
    return folder


def longbench_folder(root: Path, task: str = "qasper", rows: Sequence[Any] | None = None) -> Path:
    """data/TASK.jsonl and config/, as LongBench's archive and repository have them."""
    rows = [longbench_row(number, task) for number in range(3)] if rows is None else rows
    write_lines(root / "data" / f"{task}.jsonl", rows)
    longbench_config(root / "config", [task.removesuffix("_e")])
    return root


def choubun_folder(root: Path) -> Path:
    """ChouBun's layout: TASK/test-00000-of-00001.parquet, and the config folder of the paper's code."""
    tasks = BENCHMARKS["choubun"].tasks
    longbench_config(root / "config", tasks)
    for task in tasks:
        rows = [
            longbench_row(
                n,
                task,
                context=f"船{n}は緑である。港は静かだ。",
                input="船の色は？",
                answers=["緑", "緑色である"],
                language="ja",
            )
            for n in range(3)
        ]
        (root / task).mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / task / "test-00000-of-00001.parquet")
    return root


def longbench_v2_folder(root: Path, rows: Sequence[Any] | None = None) -> Path:
    """data.json, a list, and prompts/0shot.txt with its marks."""
    (root / "prompts").mkdir(parents=True, exist_ok=True)
    prompt = "Text: $DOC$\nAsked: $Q$\nA $C_A$ B $C_B$ C $C_C$ D $C_D$\nSay: The correct answer is (LETTER)."
    (root / "prompts" / "0shot.txt").write_text(prompt, encoding="utf-8")
    made = [longbench_v2_row(number, domain) for number, domain in enumerate(sorted(set(DOMAINS.values())) * 2)]
    (root / "data.json").write_text(json.dumps(made if rows is None else rows), encoding="utf-8")
    return root


def longbench_v2_row(number: int, category: str, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "_id": f"v2-{number}", "domain": category, "sub_domain": "Harbours", "difficulty": ("easy", "hard")[number % 2],
        "length": ("short", "medium", "long")[number % 3], "question": "Which colour has the boat?", "choice_A": "red",
        "choice_B": "green", "choice_C": "grey", "choice_D": "blue", "answer": "B",
        "context": " The boat is green. " + "Waves come and go. " * 4,
    }  # fmt: skip
    return {**row, **changes}


INFINITEBENCH_ANSWERS: dict[str, tuple[str, Any]] = {
    "passkey": ("What is the pass key?", ["71432"]),
    "number_string": ("What is the sequence of digits?", ["0011223344"]),
    "kv_retrieval": ('Key: "k1"', ["v1-77"]),
    "longbook_sum_eng": ("", ["The boat waits. It sails at dawn."]),
    "longbook_choice_eng": ("Who sails?", ["Berta"]),
    "longbook_qa_eng": ("Who sails?", ["Berta", "the captain"]),
    "longbook_qa_chn": ("谁在航行？", ["贝塔"]),
    "longdialogue_qa_eng": ("Who speaks?", ["BERTA", "CAPTAIN BERTA"]),
    "math_find": ("The second largest number of this list is:", [41]),
    "math_calc": ("", [3, 7, 12]),
    "code_run": ("Please give me the value of func_3(-5).", [-17]),
    "code_debug": ("", "load_boat"),
}
"""Question and answer of each task, in the types that its files have."""


def infinitebench_folder(root: Path) -> Path:
    """TASK.jsonl, and src/prompt.py with sets of prompts."""
    for task, (question, answer) in INFINITEBENCH_ANSWERS.items():
        options = ["Anna", "Berta", "Carla", "Dora"] if task == "longbook_choice_eng" else ["a", "load_boat", "b", "c"]
        fields = {"context": "Lines of a long text. " * 4, "input": question, "answer": answer, "options": options}
        write_lines(root / f"{task}.jsonl", [{"id": number, **fields} for number in range(2)])
    extra = {
        "code_run": " {func} {func_call}",
        "math_find": " {prefix} {input}",
        "code_debug": " {OPTION_A} {OPTION_B} {OPTION_C} {OPTION_D}",
        "longbook_choice_eng": " {question} {OPTION_A} {OPTION_B} {OPTION_C} {OPTION_D}",
    }
    entries = [f"    {task!r}: 'Given {{context}}' + {extra.get(task, '')!r}," for task in INFINITEBENCH_ANSWERS]
    (root / "src").mkdir(parents=True, exist_ok=True)
    code = "import os\nos.remove('no such file')\nyarn_mistral_templates = {\n" + "\n".join(entries) + "\n}\n"
    (root / "src" / "prompt.py").write_text(code, encoding="utf-8")
    return root


def ruler_folder(root: Path) -> Path:
    """SQuAD's and HotpotQA's files."""
    root.mkdir(parents=True, exist_ok=True)
    paragraphs = [
        {
            "context": f"The boat {name} is painted {colour}. It lies in the harbour.",
            "qas": [
                {"question": f"Which colour has {name}?", "is_impossible": False, "answers": [{"text": colour}]},
                {"question": "Who owns it?", "is_impossible": True, "answers": []},
            ],
        }
        for name, colour in (("Anna", "green"), ("Berta", "red"), ("Carla", "blue"))
    ]
    (root / "squad.json").write_text(json.dumps({"data": [{"title": "Boats", "paragraphs": paragraphs}]}))
    hotpot = [
        {
            "question": f"Where does the owner of {name} live?",
            "answer": town,
            "context": [[name, [f"{name} belongs to Otto.", " It is old."]], ["Otto", [f"Otto lives in {town}."]]],
        }
        for name, town in (("Anna", "Kiel"), ("Berta", "Kiel"))
    ]
    (root / "hotpot_dev_distractor_v1.json").write_text(json.dumps(hotpot))
    return root


def babilong_folder(root: Path) -> Path:
    """4k/TASK-00000-of-00001.parquet for odd tasks, data/TASK/4k.json for even ones: both layouts of the Hub."""
    for number, task in enumerate(BENCHMARKS["babilong"].tasks, start=1):
        rows = [
            {"input": " Waves. Anna went to the garden. Waves. ", "question": "Where is Anna? ", "target": "garden"},
            {"input": "Waves. Berta went to the kitchen.", "question": "Where is Berta? ", "target": "kitchen"},
        ]
        if number % 2:
            (root / "4k").mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "4k" / f"{task}-00000-of-00001.parquet")
        else:
            (root / "data" / task).mkdir(parents=True, exist_ok=True)
            (root / "data" / task / "4k.json").write_text(json.dumps(rows))
    return root


def made_up_benchmark(name: str, root: Path) -> Benchmark:
    """A benchmark on a folder with a few rows of each of its tasks; what it generates is small."""
    if name.startswith("longbench") and name != "longbench-v2":
        for task in BENCHMARKS[name].tasks:
            answers = {
                "passage_retrieval_en": ["Paragraph 3"],
                "passage_retrieval_zh": ["段落3"],
                "passage_count": ["3"],
            }
            more = {"answers": answers.get(task, ["green", "dark green"]), "all_classes": ["green", "grey"]}
            rows = [longbench_row(number, task, **more) for number in range(3)]
            longbench_folder(root, f"{task}_e" if name == "longbench-e" else task, rows)
        longbench_config(root / "config", BENCHMARKS[name].tasks)
        return make_benchmark(name, root)
    folders = {
        "choubun": choubun_folder, "longbench-v2": longbench_v2_folder, "infinitebench": infinitebench_folder,
        "ruler": ruler_folder, "babilong": babilong_folder,
    }  # fmt: skip
    data = folders[name](root) if name in folders else None
    lengths = {"babilong": (4096,), "ruler": (1500, 2048), "documents": (1500,)}.get(name, (256, 512))
    return make_benchmark(name, data, lengths=lengths, samples=3, depths=(0, 50, 100))


def perfect_answers(item: TextItem) -> list[str]:
    """Answers, one of which deserves 1."""
    return [item.answers[0], " ".join(item.answers), f"The correct answer is ({item.answers[0]})."]


def _json(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
