"""The transfer matrix: what each NAMM recipe and each rival keeps of a model's ability, target by target.

A line is a recipe, with one or several NAMMs that it came to (its runs), or a rival, or a reference; a column is a
group of targets of one modality. A cell says the score as a part of the full cache's, what was kept, and how it
compares with the rivals of the same size. Where a recipe has several runs the interval is over trials and over runs
(evaluations/analysis/matrix_cells.py): whether transfer is a property of the recipe is a question about runs that
nobody has made yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluations.analysis.estimates import PairedDifference, holm
from evaluations.analysis.matrix_cells import Column, Line, MatrixCell, OnTarget, Played, on_target, over_runs
from evaluations.analysis.summary import role
from evaluations.rows.file import Row
from evaluations.rows.policy_names import FULL, KEEP, PolicyName, is_ceiling, is_namm
from evaluations.rows.trials import LOG_LIKELIHOOD, of, trial_id, trials

__all__ = ["Column", "Line", "Matrix", "MatrixCell", "Runs", "columns_of", "matrix", "over_runs"]


FREE, EQUAL = "one threshold", "equal heads"
"""How a line divides its size over layers and heads, where others of its kind do otherwise."""


@dataclass(frozen=True)
class Matrix:
    """All lines and columns, and the cells that have rows."""

    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Line, str], MatrixCell]
    """By line and the column's name."""
    left_out: tuple[str, ...]
    """Targets of which nothing can be said as a part of the full cache's score, and why."""

    def cell(self, line: Line, column: Column) -> MatrixCell | None:
        """A cell; None where nothing was played."""
        return self.cells.get((line, column.name))

    def rivals(self, share: float | None) -> list[Line]:
        """Rivals of a size."""
        return [line for line in self.lines if line.kind == "rival" and line.share == share]


Runs = Mapping[str, tuple[str, str]]
"""Of the digest of each NAMM: the line that it belongs to, and its own name."""


def columns_of(rows: Sequence[Row]) -> tuple[Column, ...]:
    """A column for each target: for experiments that have no groups of targets."""
    targets = dict.fromkeys(row["target"] for row in rows)
    return tuple(Column(target, target, (target,)) for target in targets)


def matrix(rows: Sequence[Row], columns: Sequence[Column] | None = None, runs: Runs | None = None) -> Matrix:
    """The matrix of some rows.

    Args:
        rows: Of any modalities; points of curves are left out.
        columns: Groups of targets. Default: every target by itself.
        runs: Which NAMM belongs to which line. Default: each policy of a NAMM is a line.
    """
    shown = [row for row in rows if role(row) != "curve"]
    columns = columns_of(shown) if columns is None else tuple(columns)
    shares = _shares(shown)
    groups: dict[Line, dict[str, dict[str, list[Row]]]] = {}
    for row in shown:
        line, run = _line(row, shares, runs)
        groups.setdefault(line, {}).setdefault(row["target"], {}).setdefault(run, []).append(row)
    cells: dict[tuple[Line, str], MatrixCell] = {}
    left_out: dict[str, None] = {}
    lines = sorted(groups, key=lambda line: (("reference", "namm", "rival").index(line.kind), line.share or 0.0))
    for column in columns:
        full = {target: _by_trial(groups, FULL, target) for target in column.targets}
        native = {target: _native(groups, target) for target in column.targets}
        found = {}
        for line in lines:
            played = _whole({target: groups[line][target] for target in column.targets if target in groups[line]})
            targets, refused = _targets(played, full)
            left_out |= dict.fromkeys(refused)
            if targets and len(played) == len([t for t in column.targets if full[t]]):
                found[line] = Played(line, targets, native)
        cells |= {(line, column.name): cell for line, cell in _compared(found).items()}
    return Matrix(tuple(line for line in lines if any(line is at for at, _ in cells)), columns, cells, tuple(left_out))


def _whole(played: Mapping[str, Mapping[str, list[Row]]]) -> dict[str, dict[str, list[Row]]]:
    """The runs that have played all of the targets; an experiment may be looked at while it goes on."""
    runs = set.intersection(*(set(by_run) for by_run in played.values())) if played else set()
    return {
        target: {run: rows for run, rows in by_run.items() if run in runs} for target, by_run in played.items() if runs
    }


def _compared(found: Mapping[Line, Played]) -> dict[Line, MatrixCell]:
    """Cells with their differences to the rivals of their size; all of a column corrected together."""
    cells = {line: played.cell() for line, played in found.items()}
    tests: dict[tuple[Line, str], PairedDifference] = {}
    for line, played in found.items():
        if line.kind != "namm":
            continue
        others = [other for other in found if other.kind == "rival" and other.share == line.share]
        others += [other for other in found if other.name == FULL]
        for other in others:
            test = played.minus(found[other])
            if test is not None:
                tests[line, other.name] = test
    corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True)) if tests else {}
    for line in cells:
        versus = {name: replace(test, adjusted=corrected[at, name]) for (at, name), test in tests.items() if at == line}
        rivals = {o.name: cells[o].relative.value for o in cells if o.kind == "rival" and o.share == line.share}
        best = max(rivals, key=lambda name: rivals[name], default=None) if line.kind == "namm" else None
        cells[line] = replace(cells[line], versus=versus, best_rival=best)
    return cells


def _shares(rows: Sequence[Row]) -> dict[tuple[str, int | None], float]:
    """What share a budget stands for on a target: a row that another command made does not say it."""
    told = [(row, row["memory"].get("share")) for row in rows]
    budgets = [(row, share, row["identity"].get("budget")) for row, share in told if share is not None]
    return {(row["target"], budget): share for row, share, budget in budgets if budget is not None}


def _line(row: Row, shares: Mapping[tuple[str, int | None], float], runs: Runs | None) -> tuple[Line, str]:
    """The line of a row, and its run."""
    policy = row["policy"]
    share = row["memory"].get("share", row["identity"].get("options", {}).get(KEEP))
    if share is None and role(row) == "given":
        budget, own = row["identity"].get("budget"), row["identity"].get("kept_fraction")
        share = own if budget is None else shares.get((row["target"], budget))
    if policy in of(row).references or is_ceiling(policy):
        return Line(policy, "reference"), policy
    options = row["identity"].get("options", {})
    if not is_namm(policy):
        return Line(f"{_without_size(policy)}, {FREE}" if KEEP in options else policy, "rival", share), policy
    digest = row["identity"].get("namm_sha256", "")
    if runs is None:
        return Line(policy, "namm", share), policy
    line, run = runs.get(digest, (f"namm {digest[:8]}", digest[:8]))
    equal = role(row) == "given" and KEEP not in options
    return Line(f"{line}, {EQUAL}" if equal else line, "namm", share), run


def _without_size(policy: str) -> PolicyName:
    """A policy's name without the part of the tokens that it was to keep."""
    name = PolicyName.parse(policy)
    return replace(name, options=tuple(option for option in name.options if option[0] != KEEP))


def _targets(
    played: Mapping[str, Mapping[str, list[Row]]], full: Mapping[str, dict[tuple[int, Any], float]]
) -> tuple[dict[str, OnTarget], list[str]]:
    """A line's targets, and those that cannot be told as a part of the full cache's score."""
    found, refused = {}, []
    for target, by_run in played.items():
        first = next(iter(by_run.values()))[0]
        kind = of(first).score(first["score_name"])
        likelihood = kind.name == LOG_LIKELIHOOD.name
        if any(len({row["seed"] for row in rows}) < len(rows) for rows in by_run.values()):
            refused.append(f"{target}: rows of several settings (sizes, intervals, lengths) would be one cell")
        elif not full[target]:
            refused.append(f"{target}: the full cache was not played")
        elif not kind.percentage and not likelihood:
            refused.append(f"{target}: a {first['score_name']} has no zero, so nothing is a part of it")
        else:
            here = on_target(by_run, full[target], likelihood)
            if here is not None and not likelihood and here.full.mean() <= 0:
                refused.append(f"{target}: the full cache scores {here.full.mean():g}")
            elif here is not None:
                found[target] = here
    return found, refused


def _by_trial(
    groups: Mapping[Line, Mapping[str, Mapping[str, list[Row]]]], name: str, target: str
) -> dict[tuple[int, Any], float]:
    """The scores of a reference on a target, by seed and trial."""
    by_run = groups.get(Line(name, "reference"), {}).get(target, {})
    return {
        (row["seed"], trial_id(row, trial)): trial["score"]
        for several in by_run.values()
        for row in several
        for trial in trials(row)
    }


def _native(groups: Mapping[Line, Mapping[str, Mapping[str, list[Row]]]], target: str) -> float | None:
    """Mean score of the model used without a cache, as it is meant to be."""
    for line, by_target in groups.items():
        for several in by_target.get(target, {}).values():
            if line.kind == "reference" and of(several[0]).native == line.name:
                return float(np.mean([trial["score"] for row in several for trial in trials(row)]))
    return None
