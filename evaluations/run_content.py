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

from evaluations.harness import Row
from evaluations.suites import SHIPPED, SUITES
from evaluations.summary import role
from evaluations.survival import cue_points

CUE_POINTS = 40
"""Points of a cue's survival curve."""
AXES = {
    "episode": "episode/index",
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
    history: tuple[Mapping[str, float], ...]
    """One entry a call of `log`."""
    columns: tuple[str, ...]
    table: tuple[tuple[Any, ...], ...]
    """One line an episode."""
    summary: Mapping[str, float]
    """Score and every metric."""


def run_content(row: Row, experiment: str, settings: Mapping[str, Any]) -> RunContent:
    """The run of a row.

    Args:
        row: A finished row.
        experiment: Name of the experiment's folder.
        settings: The experiment's resolved configuration.
    """
    kind, modality = role(row), row["identity"].get("modality", "control")
    suite = suite_of(row, settings)
    budget = f"-b{row['identity'].get('budget')}" if kind == "curve" else ""
    columns = tuple(dict.fromkeys(name for episode in row["episodes"] for name in episode))
    return RunContent(
        id=hashlib.sha256(f"{experiment}/{row['key']}".encode()).hexdigest()[:16],
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
        history=(*_episodes(row), *_cache(row), *_retention(row), *_ages(row), *_cues(row)),
        columns=columns,
        table=tuple(tuple(episode.get(name) for name in columns) for episode in row["episodes"]),
        summary={
            name: float(value)
            for name, value in {"score": row["score"], **row["metrics"], "seconds": row.get("seconds")}.items()
            if isinstance(value, (int, float))
        },
    )


def suite_of(row: Row, settings: Mapping[str, Any]) -> str | None:
    """The suite that the experiment was asked for and that has the row's target."""
    return next((name for name in settings.get("suite") or () if row["target"] in SUITES.get(name, ())), None)


def _dataset(row: Row, settings: Mapping[str, Any]) -> str:
    """What the model was trained on, as far as names tell."""
    shipped = SHIPPED.get(row["target"])
    return str(settings.get("dataset") or (shipped.folder if shipped else row["target"]))


def _episodes(row: Row) -> list[dict[str, float]]:
    return [
        {AXES["episode"]: index}
        | {f"episode/{k}": float(v) for k, v in episode.items() if v is not None and k != "reset_seed"}
        for index, episode in enumerate(row["episodes"])
    ]


def _cache(row: Row) -> list[dict[str, float]]:
    trace = row.get("trace") or {"steps": (), "slots": ()}
    pairs = zip(trace["steps"], trace["slots"], strict=True)
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
