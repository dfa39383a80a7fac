"""What the local dashboard shows, as plain JSON values made from rows: one entry a cell, that is a policy on a target.

A cell pools the seeds of one target, policy and size of one experiment, and names its numbers as W&B runs do
(evaluations/boards/run_content.py), so that both dashboards show the same panels (evaluations/boards/panels.py). What
stands above the panels is evaluations/boards/matrix_view.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from evaluations.analysis.aggregates import aggregate
from evaluations.analysis.clusters import Clustered
from evaluations.analysis.estimates import Estimate, bootstrap, success_rate
from evaluations.analysis.matrix import Runs
from evaluations.analysis.summary import BOOTSTRAP_SEED, role, scaled, trial_values
from evaluations.analysis.survival import held_at_need, in_any_head
from evaluations.boards.experiments import Experiment
from evaluations.boards.matrix_view import runs_told
from evaluations.boards.panels import Panel, board_of, numbers_of, sections_of
from evaluations.boards.run_content import run_content
from evaluations.boards.wandb_package import reason
from evaluations.rows.policy_names import is_namm
from evaluations.rows.results import Row
from evaluations.rows.trials import Trials, of, trials

BANDED = "cue/held"
"""The history that has an interval."""


@dataclass(frozen=True)
class Shown:
    """A cell of the page and what it was made of."""

    experiment: Experiment
    rows: tuple[Row, ...]
    cell: dict[str, Any]
    """Plain values."""


def shown_cells(experiment: Experiment) -> tuple[list[Shown], list[str]]:
    """Every cell of an experiment that can be shown, and a line for each that cannot.

    Args:
        experiment: What was read.
    """
    runs = runs_told(experiment.settings) or {}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in experiment.rows:
        budget = row["identity"].get("budget") if role(row) == "curve" else None
        digest = row["identity"].get("namm_sha256") if is_namm(row["policy"]) else None
        groups.setdefault((row["target"], row["policy"], digest, size(row), budget), []).append(row)
    found, remarks = [], []
    for (target, policy, *_), rows in groups.items():
        try:
            found.append(Shown(experiment, tuple(rows), _cell(experiment, rows, runs)))
        except Exception as error:  # rows of others may hold anything; the other cells are shown
            remarks.append(f"{experiment.folder}: {policy} on {target} is not shown ({reason(error)}).")
    return found, remarks


def size(row: Row) -> str:
    """How large a row's memory was allowed to be, in a word or two."""
    kind, share = role(row), row["memory"].get("share")
    if share is not None:
        return f"{100 * share:.0f}% of the tokens"
    if kind == "given":
        return f"budget {row['identity'].get('budget')}"
    return {"reference": "everything", "free": "its own", "matched": "the NAMM's"}.get(kind, kind)


def _name(row: Row, runs: Runs) -> str:
    """A policy as the page calls it: a NAMM by the name of its run, where the experiment compares several."""
    _, name = runs.get(row["identity"].get("namm_sha256") or "", ("", row["policy"]))
    share = row["memory"].get("share")
    return (name if is_namm(row["policy"]) else row["policy"]) + ("" if share is None else f" at {100 * share:.0f}%")


def _cell(experiment: Experiment, rows: Sequence[Row], runs: Runs) -> dict[str, Any]:
    first = rows[0]
    described, board = of(first), board_of(of(first))
    contents = [run_content(row, experiment.name, experiment.settings) for row in rows]
    policy = first["policy"]
    return {
        "experiment": experiment.name,
        "suite": board.suite(first, experiment.settings) or "none",
        "modality": described.modality,
        "target": first["target"],
        "env": described.environment(first),
        "policy": _name(first, runs),
        "family": "reference" if policy in described.references else "namm" if is_namm(policy) else "rival",
        "size": size(first),
        "budget": first["identity"].get("budget"),
        "seeds": len(rows),
        "trials": sum(len(trials(row)) for row in rows),
        "score_name": first["score_name"],
        "numbers": _numbers(rows, [content.summary for content in contents]),
        "spread": {name: _spread(rows, name) for panel in _panels(described, "trials") for name in panel.y},
        "lines": _lines(rows, [content.history for content in contents]),
        "heads": _heads(rows),
        "versions": first["versions"],
        "checkpoint": " ".join(str(first["identity"].get(key) or "")[:12] for key in board.checkpoints.values()),
        "namm": (first["identity"].get("namm_sha256") or "")[:12],
    }


def _numbers(rows: Sequence[Row], summaries: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """[value, low, high] of every number that is shown; without an interval where there is none to have."""
    described = of(rows[0])
    shown = _panels(described, "bars", "scatter")
    names = [number.name for number in numbers_of([described])]
    names += [name for panel in shown for name in (*panel.y, *filter(None, [panel.x]))]
    found = {}
    for name in dict.fromkeys(names):
        known = [summary[name] for summary in summaries if name in summary]
        estimate = _estimate(rows, name)
        if estimate is not None:
            found[name] = [estimate.value, estimate.low, estimate.high]
        elif known:
            found[name] = [sum(known) / len(known)]
    return found


def _estimate(rows: Sequence[Row], name: str) -> Estimate | None:
    """Interval of a number that every trial has one of."""
    played = [trials(row) for row in rows]
    if name == "cue_held":
        return held_at_need(rows)
    if name not in ("score", "slots_mean") or not all(name in trial for each in played for trial in each):
        return None
    if not any(len(each) > 1 for each in played):
        return None  # seeds are strata: one score in each tells nothing of its spread
    successes = [known for each in played for trial in each if (known := trial.get("success")) is not None]
    is_told = len(successes) == sum(map(len, played))
    if name == "score" and of(rows[0]).score(rows[0]["score_name"]).rate and is_told:
        return scaled(success_rate(successes), 100)
    values = trial_values(rows, name)
    if isinstance(values, Clustered):
        return aggregate([values], BOOTSTRAP_SEED)
    return bootstrap([[trial[name] for trial in each] for each in played], seed=BOOTSTRAP_SEED)


def _spread(rows: Sequence[Row], name: str) -> list[float]:
    key = name.partition("/")[2]
    return [float(trial[key]) for row in rows for trial in trials(row) if trial.get(key) is not None]


def _panels(described: Trials, *kinds: str) -> list[Panel]:
    """The panels of some kinds that show rows of a modality."""
    return [panel for _, panels in sections_of([described]) for panel in panels if panel.kind in kinds]


def _lines(
    rows: Sequence[Row], histories: Sequence[Sequence[Mapping[str, float]]]
) -> dict[str, dict[str, list[float]]]:
    """x and y (and low and high) of every history that the panels show, mean over the seeds that have each point."""
    found = {}
    for panel in _panels(of(rows[0]), "lines"):
        for name in panel.y:
            points: dict[float, list[float]] = {}
            for entry in (entry for history in histories for entry in history if name in entry):
                points.setdefault(float(entry[panel.against]), []).append(float(entry[name]))
            if points:
                steps = sorted(points)
                found[name] = {"x": steps, "y": [round(float(np.mean(points[step])), 4) for step in steps]}
    kept = in_any_head(rows)
    if kept is not None:
        steps = np.append(kept.steps, kept.horizon)
        several = {"y": kept.held, "low": kept.low, "high": kept.high}
        curve = {name: np.append(values, values[-1]).round(4).tolist() for name, values in several.items()}
        found[BANDED] = {"x": steps.tolist(), **curve}
    return found


def _heads(rows: Sequence[Row]) -> dict[str, Any] | None:
    told = [row["retention"] for row in rows if (row.get("retention") or {}).get("heads")]
    if not told:
        return None
    stacked = np.array([retention["heads"] for retention in told], dtype=float)
    known = np.isfinite(stacked)
    mean = np.where(known, stacked, 0).sum(0) / np.maximum(known.sum(0), 1)
    used = np.asarray(known.any(axis=(0, 1, 2)))
    layers, heads, _ = mean.shape
    edges = told[0]["age_edges"]
    ages = [f"{low}" if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(edges)]
    return {
        "values": mean.reshape(layers * heads, -1)[:, used].round(3).tolist(),
        "ages": [age for age, shown in zip(ages, used, strict=True) if shown],
        "names": [f"layer {i}" if heads == 1 else f"{i} · {j}" for i in range(layers) for j in range(heads)],
    }
