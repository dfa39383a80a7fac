"""What one Weights & Biases run says about one finished row: its name, config, history, table and summary.

Everything here follows from the row and the experiment's configuration alone, so that mirroring a row again gives the
same run under the same id, and a test can compare a run that is read back with the row number by number. History is
told against axes of its own, never against W&B's step. What is special to a modality its board tells
(evaluations/boards/panels.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluations.analysis.summary import role
from evaluations.boards.panels import board_of
from evaluations.rows.file import Row
from evaluations.rows.trials import Trials, of, trials

GROUP_KEYS = ("namm_sha256", "statistics", "interval", "budget", "device")
"""Settings of a row's identity that go to the top level of a run's config, to group and filter by, in any modality."""


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
    """Of the history."""
    axes: Mapping[str, str]
    """What each of them is told against."""
    history: tuple[Mapping[str, float], ...]
    """One entry a call of `log`."""
    columns: tuple[str, ...]
    table_name: str
    """Where the row has its trials."""
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
    kind, described = role(row), of(row)
    board = board_of(described)
    suite = board.suite(row, settings)
    budget = f"-b{row['identity'].get('budget')}" if kind == "curve" else ""
    columns = tuple(dict.fromkeys(name for trial in trials(row) for name in trial))
    tags = (described.modality, row["policy"], row["target"], suite)
    axes = {described.word: f"{described.word}/index", **board.axes}
    return RunContent(
        id=run_id(identity or experiment, row["key"]),
        name=_plain(f"{row['target']}-{row['policy']}{budget}-s{row['seed']}"),
        group=suite or experiment,
        job_type="curve" if kind == "curve" else "evaluate",
        tags=tuple(dict.fromkeys(str(tag)[:64] for tag in tags if tag)),
        config={
            "modality": described.modality,
            "policy": row["policy"],
            "target": row["target"],
            "env": row["task"],
            "comparability": (row.get("comparability") or {}).get("verdict"),
            "dataset": board.dataset(row, settings),
            "suite": suite,
            "seed": row["seed"],
            "role": kind,
            "score_name": row["score_name"],
            **{key: row["identity"].get(key) for key in (*GROUP_KEYS, *board.group_keys)},
            "versions": dict(row["versions"]),
            "row_key": row["key"],
            "identity": dict(row["identity"]),
            "experiment": {"name": experiment, **settings},
        },
        sections=tuple(axes),
        axes=axes,
        history=(*_trials(row, described), *board.history(row)),
        columns=columns,
        table_name=described.key,
        table=tuple(zip(*(_column([trial.get(name) for trial in trials(row)]) for name in columns), strict=True)),
        summary={
            name: float(value)
            for name, value in {"score": row["score"], **row["metrics"], "seconds": row.get("seconds")}.items()
            if isinstance(value, (int, float))
        },
    )


def run_id(identity: str, what: str) -> str:
    """The id of a run: of an experiment, and of what of it the run shows."""
    return hashlib.sha256(f"{identity}/{what}".encode()).hexdigest()[:16]


def _column(values: list[Any]) -> list[Any]:
    """Values of one kind, as W&B's tables need them: numbers, where all are; text, where several kinds meet."""
    kinds = {"bool" if isinstance(v, bool) else "number" if isinstance(v, int | float) else type(v).__name__
             for v in values if v is not None}  # fmt: skip
    if len(kinds) < 2:
        return values
    if kinds == {"bool", "number"}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def _trials(row: Row, described: Trials) -> list[dict[str, float]]:
    """The numbers of every trial; what only names it is none."""
    word = described.word
    return [
        {f"{word}/index": index}
        | {
            f"{word}/{name}": float(value)
            for name, value in trial.items()
            if isinstance(value, (int, float)) and name != described.identity
        }
        for index, trial in enumerate(trials(row))
    ]


def _plain(name: str) -> str:
    """Letters, digits, dots and single dashes."""
    words = "".join(letter if letter.isalnum() or letter in "._" else " " for letter in name).split()
    return "-".join(words)
