"""Rows of recall by condition, context length and interval, as lines of one table (for recipes and their cards)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from evaluations.analysis.aggregates import aggregate, scores_of
from evaluations.analysis.clusters import Clustered, Task, mapped
from evaluations.analysis.estimates import Estimate, bootstrap
from evaluations.analysis.summary import BOOTSTRAP_SEED, trial_values
from evaluations.rows.file import Row
from evaluations.rows.trials import of, trials

Line = tuple[str, str, int, int, Estimate, float, float]


def lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Policy, task ("all" for the mean), context tokens, interval, score, kept fraction, score relative to full."""
    groups: dict[tuple[str, int, int], dict[str, list[Row]]] = {}
    for row in rows:
        if of(row).score(row["score_name"]).percentage:
            identity = row["identity"]
            key = (row["policy"], identity.get("context_tokens", 0), identity["interval"])
            groups.setdefault(key, {}).setdefault(row["task"], []).append(row)
    for (policy, tokens, interval), tasks in groups.items():
        full = groups.get(("full", tokens, interval), {})
        strata, kept, relative = [], [], []
        for task, found in tasks.items():
            scores, reference = _scores(found), _scores(full.get(task, []))
            fraction = sum(row["metrics"]["kept_fraction"] for row in found) / len(found)
            ratio = sum(scores) / len(scores) / (sum(reference) / len(reference)) if sum(reference) else math.nan
            strata.append(trial_values(found, "score"))
            kept.append(fraction)
            relative.append(ratio)
            yield policy, task, tokens, interval, _estimate(strata[-1:]), fraction, ratio
        # drawn tasks have equally many prompts, so their pooled mean is the mean over tasks
        fraction, ratio = (sum(part) / len(part) for part in (kept, relative))
        yield policy, "all", tokens, interval, _estimate(strata), fraction, ratio


def _estimate(tasks: Sequence[Task]) -> Estimate:
    """Pooled mean of scores in percent, from 0 to 1; by document, where a task has several prompts about one."""
    parts = [mapped(task, lambda scores: scores / 100.0) for task in tasks]
    if any(isinstance(part, Clustered) for part in parts):
        sizes = [scores_of(part).size for part in parts]
        return aggregate(parts, BOOTSTRAP_SEED, lambda runs: np.average([r.mean(-1) for r in runs], 0, sizes))
    return bootstrap([scores_of(part).ravel().tolist() for part in parts], BOOTSTRAP_SEED)


def _scores(rows: Sequence[Row]) -> list[float]:
    return [trial["score"] / 100.0 for row in rows for trial in trials(row)]
