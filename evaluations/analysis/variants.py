"""Which NAMM the rivals are compared with, without letting it be chosen by the trials it is then judged on.

The best of several variants looks better than it is: some of its lead is luck (the winner's curse). So where several
ran and none was declared beforehand, the choice is cross-fitted: the variant for each seed is the one that scored
best on the *other* seeds (of equal ones the smaller), and only that seed's trials count for it. With one seed, the
two halves of its trials choose for one another. Every trial is used once, and none helps to choose its own judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from evaluations.analysis.clusters import numbered
from evaluations.rows.file import Row, Trial
from evaluations.rows.policy_names import HELD_OUT
from evaluations.rows.trials import document_of, of, trial_id, trials

Fold = tuple[int, int | None]
"""A seed, and which half of its trials; None for all."""


def held_out(variants: Sequence[Sequence[Row]]) -> list[Row] | None:
    """Rows of the cross-fitted NAMM: each trial played by the variant that the other folds chose.

    Args:
        variants: The rows of each NAMM variant on one target.

    Returns:
        One row a seed, or None where there are too few trials to split. Its `memory["chosen"]` names the variants.
    """
    by_variant = [{row["seed"]: row for row in rows} for rows in variants]
    seeds = sorted(set.intersection(*(set(rows) for rows in by_variant)))
    if len(seeds) > 1:
        folds: list[Fold] = [(seed, None) for seed in seeds]
    elif seeds and all(_part(rows[seeds[0]], 1) for rows in by_variant):
        folds = [(seeds[0], half) for half in (0, 1)]
    else:
        return None
    parts = []
    for fold in folds:
        others = [other for other in folds if other != fold]
        seed, part = fold
        winner = max(by_variant, key=lambda rows: _merit(rows, others))[seed]
        parts.append((seed, winner, _part(winner, part)))
    return [_joined(list(group)) for _, group in groupby(parts, key=lambda part: part[0])]


def declared(rows: Sequence[Row]) -> str | None:
    """The variant that was named before anything ran (`--match namm:target`), if the rows say so."""
    named = {row["memory"].get("matched_to") for row in rows if row["memory"].get("matched_by") == "declared"}
    return named.pop() if len(named) == 1 else None


def _part(row: Row, half: int | None) -> list[Trial]:
    """The trials of a row, or every second one, all about one document together."""
    played = trials(row)
    numbers = numbered([document_of(row, trial) for trial in played])
    return [trial for trial, number in zip(played, numbers, strict=True) if half is None or number % 2 == half]


def _merit(rows: dict[int, Row], folds: Sequence[Fold]) -> tuple[float, float]:
    played = [trial for seed, half in folds for trial in _part(rows[seed], half)]
    sizes = [trial.get("slots_mean") or 0 for trial in played]
    return float(np.mean([trial["score"] for trial in played])), -float(np.mean(sizes))


def _joined(parts: Sequence[tuple[int, Row, list[dict[str, Any]]]]) -> Row:
    """One row out of the parts of a seed; metrics are the mean of the rows they come from."""
    first = parts[0][1]
    played = sorted((trial for _, _, part in parts for trial in part), key=partial(trial_id, first))
    chosen = list(dict.fromkeys(row["policy"] for _, row, _ in parts))
    metrics: dict[str, float | None] = {}
    for name in first["metrics"]:
        values = [row["metrics"].get(name) for _, row, _ in parts]
        metrics[name] = None if None in values else float(np.mean(values))
    return {
        **first,
        "policy": HELD_OUT,
        "score": float(np.mean([trial["score"] for trial in played])),
        "metrics": metrics,
        of(first).key: played,
        "memory": {**first["memory"], "chosen": chosen},
        "trace": None,
    }
