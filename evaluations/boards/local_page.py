"""What the local dashboard shows, as plain JSON values made from rows: one entry a cell, that is a policy on a target.

A cell pools the seeds of one target, policy and (on the score-against-size curve) budget of one experiment, and names
its numbers as W&B runs do (evaluations/boards/run_content.py), so that both dashboards show the same panels
(evaluations/boards/panels.py).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from evaluations.analysis.aggregates import aggregate
from evaluations.analysis.clusters import Clustered
from evaluations.analysis.estimates import Estimate, bootstrap, success_rate
from evaluations.analysis.summary import BOOTSTRAP_SEED, role, scaled, trial_values
from evaluations.analysis.survival import held_at_need, in_any_head
from evaluations.boards.experiments import Experiment
from evaluations.boards.panels import Panel, board_of, numbers_of, sections_of
from evaluations.boards.run_content import run_content
from evaluations.rows.policy_names import is_namm
from evaluations.rows.results import Row
from evaluations.rows.trials import Trials, of, trials

BANDED = "cue/held"
"""The history that has an interval."""


def cells(experiments: Sequence[Experiment], most_videos: int) -> list[dict[str, Any]]:
    """Every cell of some experiments, references first, then NAMM, then rivals.

    Args:
        experiments: What was read.
        most_videos: Videos to put into the page, at most; NAMM's come first.
    """
    groups: dict[tuple[str, str, str, int | None], tuple[Experiment, list[Row]]] = {}
    for experiment in experiments:
        for row in experiment.rows:
            budget = row["identity"].get("budget") if role(row) == "curve" else None
            key = (experiment.name, row["target"], row["policy"], budget)
            groups.setdefault(key, (experiment, []))[1].append(row)
    found = [(experiment, _cell(experiment, rows), rows) for experiment, rows in groups.values()]
    found.sort(key=lambda item: (item[1]["family"] != "reference", item[1]["family"] != "namm"))
    for experiment, cell, rows in sorted(found, key=lambda item: item[1]["family"] != "namm"):
        video = _video(experiment.folder, rows) if most_videos else None
        cell["video"] = video
        most_videos -= video is not None
    return [cell for _, cell, _ in found]


def _cell(experiment: Experiment, rows: Sequence[Row]) -> dict[str, Any]:
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
        "policy": policy,
        "family": "reference" if policy in described.references else "namm" if is_namm(policy) else "rival",
        "role": role(first),
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


def _video(folder: Path, rows: Sequence[Row]) -> str | None:
    keys = [row["key"] for row in rows if row.get("trace")]
    for kind in ("gif", "png"):  # what moves, where there is such a thing
        found = [path for key in keys for path in (folder / "media").glob(f"*{key}.{kind}")]
        if found:
            return f"data:image/{kind};base64,{base64.b64encode(found[0].read_bytes()).decode()}"
    return None
