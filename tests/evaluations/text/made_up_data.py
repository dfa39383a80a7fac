"""Tiny folders in the exact layout and schema of the benchmarks, with words of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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


def _json(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
