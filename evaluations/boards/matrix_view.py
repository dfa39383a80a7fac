"""The transfer matrix of each experiment as plain JSON values: what the top of the local dashboard shows.

A transfer experiment says in its settings which targets make a column and which NAMMs are runs of one line; any other
has a column a target and a line a policy. What cannot be told as a part of the full cache's score is shown as measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluations.analysis.estimates import Estimate
from evaluations.analysis.matrix import Column, Line, Matrix, MatrixCell, Runs, columns_of, matrix
from evaluations.analysis.matrix_verdicts import sentence
from evaluations.analysis.summary import role
from evaluations.boards.experiments import Experiment
from evaluations.boards.wandb_package import reason
from evaluations.rows.file import Row
from evaluations.rows.policy_names import FULL
from evaluations.rows.trials import of


def matrix_view(experiment: Experiment, places: Mapping[str, int]) -> dict[str, Any]:
    """What is shown of one experiment.

    Args:
        experiment: As it was read.
        places: Of every row's key, its entry among the cells of the page (evaluations/boards/local_page.py).
    """
    rows = [row for row in experiment.rows if role(row) != "curve"]
    columns = columns_told(experiment.settings, rows)
    try:
        found = matrix(rows, columns, runs_told(experiment.settings))
        cells = [_cell(found, line, column, places) for column in columns for line in found.lines]
        left_out = found.left_out
    except Exception as error:  # rows of others may hold anything; what was measured is shown all the same
        cells, left_out = [], (f"no part of the full cache's score could be computed ({reason(error)})",)
    shown = {place for cell in cells if cell for place in cell["cells"]}
    return {
        "experiment": experiment.name,
        "columns": [_column(column, rows) for column in columns],
        "cells": [cell for cell in cells if cell] + _as_measured(rows, columns, places, shown),
        "left_out": list(left_out),
        "remarks": list(experiment.remarks),
    }


MATRIX_COLUMNS = (
    *("line", "kind", "size", "column", "percent_of_full", "low", "high", "kept", "score", "bytes", "seconds"),
    *("against", "verdict", "sentence"),
)
"""Of the same as a plain table."""


def matrix_lines(experiment: Experiment) -> list[tuple[Any, ...]]:
    """The matrix of an experiment as lines of `MATRIX_COLUMNS`, a cell a line."""
    view = matrix_view(experiment, {row["key"]: place for place, row in enumerate(experiment.rows)})
    found = []
    for cell in view["cells"]:
        value, low, high = (*(cell["relative"] or ()), None, None, None)[:3]
        rival = next(iter(cell.get("against", ())), {})
        told = [cell.get(name) for name in ("kept", "score", "bytes", "seconds")]
        size = "" if cell["share"] is None else f"{100 * cell['share']:.0f}% of the tokens"
        against = (rival.get("name"), rival.get("verdict"), cell.get("sentence"))
        found.append((cell["name"], cell["kind"], size, cell["column"], value, low, high, *told, *against))
    return found


def columns_told(settings: Mapping[str, Any], rows: Sequence[Row]) -> tuple[Column, ...]:
    """The groups of targets that the settings name, then every other target by itself."""
    told = settings.get("columns") or ()
    columns = [
        Column(str(one["name"]), str(one["title"]), tuple(map(str, one["targets"])))
        for one in (told if isinstance(told, list) else ())
        if isinstance(one, Mapping) and {"name", "title", "targets"} <= one.keys()
    ]
    grouped = {target for column in columns for target in column.targets}
    return (*columns, *(column for column in columns_of(rows) if column.name not in grouped))


def runs_told(settings: Mapping[str, Any]) -> Runs | None:
    """The line and the name of each NAMM, where the settings name lines."""
    told = settings.get("lines")
    if not isinstance(told, Mapping):
        return None
    lines = {line: runs for line, runs in told.items() if isinstance(runs, Mapping)}
    return {str(digest): (str(line), str(run)) for line, runs in lines.items() for run, digest in runs.items()}


def _column(column: Column, rows: Sequence[Row]) -> dict[str, Any]:
    first = next((row for row in rows if row["target"] in column.targets), None)
    modality = "" if first is None else of(first).modality
    return {"key": column.name, "title": column.title, "modality": modality, "targets": list(column.targets)}


def _cell(found: Matrix, line: Line, column: Column, places: Mapping[str, int]) -> dict[str, Any] | None:
    cell = found.cell(line, column)
    if cell is None:
        return None
    return {
        "line": _label(line.name, line),
        "name": line.name,
        "kind": line.kind,
        "share": line.share,
        "column": column.name,
        "relative": _interval(cell.relative),
        "native": cell.native,
        "score": cell.score,
        "kept": cell.kept or None,  # rows that do not say it
        "bytes": cell.bytes,
        "seconds": cell.seconds,
        "runs": dict(cell.by_run),
        "targets": dict(cell.by_target),
        "against": _against(cell, line),
        "sentence": sentence(replace(found, columns=(column,)), line) if line.kind == "namm" and cell.kept else "",
        "cells": sorted({places[row["key"]] for row in cell.rows if row["key"] in places}),
    }


def _label(name: str, line: Line) -> str:
    """What a line of a name, of the size of a line, is called."""
    return name if line.share is None or name == FULL else f"{name} at {100 * line.share:.0f}%"


def _against(cell: MatrixCell, line: Line) -> list[dict[str, Any]]:
    """How it compares with the best rival of its size and with the full cache: "ahead", "behind" or "even"."""
    found = []
    for name in dict.fromkeys(filter(None, [cell.best_rival, FULL])):
        test = cell.versus.get(name)
        if test is not None:
            clear = "ahead" if test.difference.value > 0 else "behind"
            verdict = clear if test.is_clear else "even"
            p_value = test.p_value if test.adjusted is None else test.adjusted
            told = {"name": name, "line": _label(name, line), "verdict": verdict}
            found.append({**told, "difference": _interval(test.difference), "p": p_value})
    return found


def _as_measured(
    rows: Sequence[Row], columns: Sequence[Column], places: Mapping[str, int], shown: set[int]
) -> list[dict[str, Any]]:
    """Cells for what is part of no cell of the matrix: scores in their own units, without an interval."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if places[row["key"]] not in shown:
            column = next(column.name for column in columns if row["target"] in column.targets)
            groups.setdefault((row["policy"], column), []).append(row)
    found = []
    for (policy, column), several in groups.items():
        kept = [known for row in several if isinstance(known := row["metrics"].get("kept_fraction"), float)]
        found.append(
            {
                "line": policy,
                "name": policy,
                "share": None,
                "kind": "reference" if policy in of(several[0]).references else "rival",
                "column": column,
                "relative": None,
                "score": sum(row["score"] for row in several) / len(several),
                "unit": several[0]["score_name"],
                "kept": sum(kept) / len(kept) if kept else None,
                "cells": sorted({places[row["key"]] for row in several}),
            }
        )
    return found


def _interval(estimate: Estimate) -> list[float]:
    """[value, low, high]; the value alone where nothing is known about how far off it may be."""
    several = (estimate.value, estimate.low, estimate.high)
    return [number for number in several if math.isfinite(number)]
