"""What one Weights & Biases run says about one finished row: its name, config, history, table and summary.

Everything here follows from the row and the experiment's configuration alone, so that mirroring a row again gives the
same run under the same id, and a test can compare a run that is read back with the row number by number. History is
told against axes of its own, never against W&B's step: episodes, environment steps, ages, steps since a cue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluations.analysis.summary import role
from evaluations.analysis.survival import cue_points
from evaluations.control.shipped import SHIPPED, SUITES
from evaluations.rows.file import Row, trials

CUE_POINTS = 40
"""Points of a cue's survival curve."""
AXES = {
    "episode": "episode/index",
    "prompt": "prompt/index",
    "cache": "cache/env_step",
    "retention": "retention/env_step",
    "age": "age/env_steps",
    "cue": "cue/env_steps_since",
}
"""Each section of the history, and what it is told against."""
GROUP_KEYS = (
    "namm_sha256",
    "statistics",
    "checkpoint_sha256",
    "model",
    "model_sha256",
    "data_sha256",
    "context_tokens",
    "interval",
    "budget",
    "target_return",
    "device",
)
"""Settings of a row's identity that go to the top level of a run's config, to group and filter by."""


@dataclass(frozen=True)
class RunContent:
    """One run, ready to be logged."""

    id: str
    """The same for the same row of the same experiment."""
    name: str
    group: str
    job_type: str
    """`evaluate`, or `curve` for a point of the score-against-size curve."""
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    sections: tuple[str, ...]
    """Of the history; `AXES` has the axis of each."""
    history: tuple[Mapping[str, float], ...]
    """One entry a call of `log`."""
    columns: tuple[str, ...]
    table_name: str
    """`episodes` or `prompts`."""
    table: tuple[tuple[Any, ...], ...]
    """One line a trial."""
    summary: Mapping[str, float]
    """Score and every metric."""


def run_content(row: Row, experiment: str, settings: Mapping[str, Any], identity: str = "") -> RunContent:
    """The run of a row.

    Args:
        row: A finished row.
        experiment: Name of the experiment's folder.
        settings: The experiment's resolved configuration.
        identity: Of the experiment, which its name is not (`evaluations.rows.identity`); only the id follows from it.
    """
    kind, modality = role(row), row["identity"].get("modality", "control")
    suite = suite_of(row, settings)
    budget = f"-b{row['identity'].get('budget')}" if kind == "curve" else ""
    columns = tuple(dict.fromkeys(name for trial in trials(row) for name in trial))
    return RunContent(
        id=hashlib.sha256(f"{identity or experiment}/{row['key']}".encode()).hexdigest()[:16],
        name=_plain(f"{row['target']}-{row['policy']}{budget}-s{row['seed']}"),
        group=suite or experiment,
        job_type="curve" if kind == "curve" else "evaluate",
        tags=tuple(dict.fromkeys(str(tag)[:64] for tag in (modality, row["policy"], row["target"], suite) if tag)),
        config={
            "modality": modality,
            "policy": row["policy"],
            "target": row["target"],
            "env": row["task"],
            "comparability": (row.get("comparability") or {}).get("verdict"),
            "dataset": _dataset(row, settings),
            "suite": suite,
            "seed": row["seed"],
            "role": kind,
            "score_name": row["score_name"],
            **{key: row["identity"].get(key) for key in GROUP_KEYS},
            "versions": dict(row["versions"]),
            "row_key": row["key"],
            "identity": dict(row["identity"]),
            "experiment": {"name": experiment, **settings},
        },
        sections=("prompt",) if "prompts" in row else tuple(name for name in AXES if name != "prompt"),
        history=(*_trials(row), *_cache(row), *_retention(row), *_ages(row), *_cues(row)),
        columns=columns,
        table_name="prompts" if "prompts" in row else "episodes",
        table=tuple(zip(*(_column([trial.get(name) for trial in trials(row)]) for name in columns), strict=True)),
        summary={
            name: float(value)
            for name, value in {"score": row["score"], **row["metrics"], "seconds": row.get("seconds")}.items()
            if isinstance(value, (int, float))
        },
    )


def _column(values: list[Any]) -> list[Any]:
    """Values of one kind, as W&B's tables need them: numbers, where all are; text, where several kinds meet."""
    kinds = {"bool" if isinstance(v, bool) else "number" if isinstance(v, int | float) else type(v).__name__
             for v in values if v is not None}  # fmt: skip
    if len(kinds) < 2:
        return values
    if kinds == {"bool", "number"}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def suite_of(row: Row, settings: Mapping[str, Any]) -> str | None:
    """The suite that the experiment was asked for and that has the row's target."""
    return next((name for name in settings.get("suite") or () if row["target"] in SUITES.get(name, ())), None)


def _dataset(row: Row, settings: Mapping[str, Any]) -> str:
    """What a control model was trained on, as far as names tell; the task of a text model."""
    if "prompts" in row:
        return row["task"]
    shipped = SHIPPED.get(row["target"])
    return str(settings.get("dataset") or (shipped.folder if shipped else row["target"]))


def _trials(row: Row) -> list[dict[str, float]]:
    word = "prompt" if "prompts" in row else "episode"
    return [
        {AXES[word]: index}
        | {
            f"{word}/{name}": float(value)
            for name, value in trial.items()
            if isinstance(value, (int, float)) and name != "reset_seed"
        }
        for index, trial in enumerate(trials(row))
    ]


def _cache(row: Row) -> list[dict[str, float]]:
    trace = row.get("trace") or {"steps": (), "slots": ()}
    pairs = zip(trace.get("steps", ()), trace.get("slots", ()), strict=True)
    return [{AXES["cache"]: step, "cache/slots": slots} for step, slots in pairs]


def _retention(row: Row) -> list[dict[str, float]]:
    told = row.get("retention") or {}
    if not told.get("kinds"):
        return []
    return [
        {AXES["retention"]: step}
        | {f"retention/{kind}": held[index] for kind, held in told["kinds"].items() if held[index] is not None}
        for index, step in enumerate(told["steps"])
    ]


def _ages(row: Row) -> list[dict[str, float]]:
    told = row.get("retention") or {}
    if not told.get("layers"):
        return []
    layers = np.array(told["layers"], dtype=float)
    known = np.isfinite(layers).all(axis=0)
    return [
        {AXES["age"]: told["age_edges"][column], "age/kept_fraction": float(layers[:, column].mean())}
        for column in np.flatnonzero(known)
    ]


def _cues(row: Row) -> list[dict[str, float]]:
    return [
        {AXES["cue"]: since, "cue/held": held, "cue/heads": heads}
        for since, held, heads in cue_points([row], CUE_POINTS)
    ]


def _plain(name: str) -> str:
    """Letters, digits, dots and single dashes."""
    words = "".join(letter if letter.isalnum() or letter in "._" else " " for letter in name).split()
    return "-".join(words)
