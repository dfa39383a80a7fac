"""Lines that one process adds survive kills and damage."""

from __future__ import annotations

from pathlib import Path

from evaluations.rows.lines import AppendedLines


def test_what_was_added_is_read_back_and_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    lines = AppendedLines(tmp_path / "answers" / "key.jsonl")
    assert lines.read() == []
    assert lines.append({"a": (1, 2.5)}) == {"a": [1, 2.5]}
    lines.append({"b": "ö"})
    with lines.path.open("ab") as stream:
        stream.write(b'{"c": ')
    assert lines.read() == [{"a": [1, 2.5]}, {"b": "ö"}]
    lines.append({"d": None})
    assert lines.read() == [{"a": [1, 2.5]}, {"b": "ö"}, {"d": None}]


def test_a_damaged_line_costs_itself_alone(tmp_path: Path) -> None:
    lines = AppendedLines(tmp_path / "key.jsonl")
    lines.append({"a": 1})
    with lines.path.open("ab") as stream:
        stream.write(b"\xff\xfe{\n[1]\n")
    lines.append({"b": 2})
    assert lines.read() == [{"a": 1}, {"b": 2}]
