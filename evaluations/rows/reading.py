"""Reads rows.jsonl to look at it, whoever wrote it: nothing is locked or moved; what is damaged is left out and told.

Who adds to the file reads it by evaluations/rows/file.py, which stops at a damaged line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluations.rows.file import Row
from evaluations.rows.policy_names import with_current_names
from evaluations.rows.trials import GROUP, known

TEXTS = ("key", "target", "task", "policy", "score_name")
OBJECTS = ("identity", "metrics", "memory", "versions")
"""What every row has, whatever its modality."""
LARGEST = 1e300
"""A number beyond it is damage; what is no number is not smaller either."""
MOST_NUMBERS = 5
"""Lines that one remark names."""


@dataclass(frozen=True)
class Reading:
    """What could be read."""

    rows: tuple[Row, ...]
    """Of several with one key the last."""
    remarks: tuple[str, ...]
    """What was left out and why, a line for each reason."""


def read_rows(path: Path) -> Reading:
    """The whole rows of a file; none where there is no file.

    Args:
        path: Of rows.jsonl. It may be growing: a last line that is half written is left out without a remark.

    Raises:
        OSError: It is there and cannot be read.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    rows: dict[str, Row] = {}
    reasons: dict[str, list[int]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, reason = _parsed(line)
        if row is not None:
            rows[row["key"]] = row
        elif number < len(lines):
            reasons.setdefault(reason, []).append(number)
    return Reading(tuple(rows.values()), tuple(_remark(path, *item) for item in reasons.items()))


def _parsed(line: str) -> tuple[Row | None, str]:
    try:
        row = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None, "no JSON object"
    reason = _trouble(row)
    return (None, reason) if reason else (with_current_names(row), "")


def _no_number(name: str) -> None:
    """Infinities and not-a-number, which JSON does not know."""


def _trouble(row: Any) -> str:
    """What a row lacks; empty where it has everything that tables, pages and mirrors ask of it."""
    if not isinstance(row, dict):
        return "no JSON object"
    missing = [name for name in TEXTS if not isinstance(row.get(name), str)]
    missing += [name for name in OBJECTS if not isinstance(row.get(name), Mapping)]
    missing += [] if isinstance(row.get("seed"), int) else ["seed"]
    if missing:
        return f"a row without {', '.join(missing)}"
    modality = row["identity"].get("modality")
    trials = known(row) if isinstance(modality, str | None) else None
    if trials is None:
        return f"a row of the modality {modality!r}, which nothing here describes (entry points of the group {GROUP})"
    played = row.get(trials.key)
    if not isinstance(played, list) or not played or not all(isinstance(trial, Mapping) for trial in played):
        return f"a row without {trials.plural}"
    return "" if _finite([row.get("score"), *(trial.get("score") for trial in played)]) else "a row without a score"


def _finite(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and abs(value) <= LARGEST for value in values)


def _remark(path: Path, reason: str, numbers: list[int]) -> str:
    several = f"lines {', '.join(map(str, numbers[:MOST_NUMBERS]))}" if len(numbers) > 1 else f"line {numbers[0]}"
    more = f" and {len(numbers) - MOST_NUMBERS} more" if len(numbers) > MOST_NUMBERS else ""
    return f"{path}: {several}{more} left out: {reason}."
