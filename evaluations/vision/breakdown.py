"""Accuracy by parts of the questions: of each kind, and by how long ago the evidence was seen, with intervals.

Questions about one clip are drawn together, as in the tables of whole tasks (evaluations/analysis/clusters.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluations.analysis.aggregates import aggregate
from evaluations.analysis.clusters import clustered
from evaluations.analysis.estimates import Estimate
from evaluations.analysis.summary import BOOTSTRAP_SEED, PolicySummary
from evaluations.rows.file import Trial

AGES = ((0, 3), (4, 7), (8, 15), (16, 31), (32, None))
"""First and last number of frames since the evidence."""


@dataclass(frozen=True)
class Part:
    """Some of the questions."""

    name: str
    count: int
    score: Estimate


def by_kind(policy: PolicySummary) -> list[Part]:
    """Each kind of question, in the order of the alphabet."""
    kinds = sorted({trial["kind"] for trial in policy.played()})
    return [_part(policy, kind, lambda trial, kind=kind: trial["kind"] == kind) for kind in kinds]


def by_age(policy: PolicySummary) -> list[Part]:
    """Each range of ages that was asked about; questions of which nobody knows the evidence are left out."""
    found = []
    for first, last in AGES:

        def inside(trial: Trial, first: int = first, last: int | None = last) -> bool:
            age = trial.get("age")
            return age is not None and first <= age and (last is None or age <= last)

        name = f"{first}–{last} frames" if last is not None else f"{first} frames or more"
        if any(inside(trial) for trial in policy.played()):
            found.append(_part(policy, name, inside))
    return found


def _part(policy: PolicySummary, name: str, wanted: Callable[[Trial], bool]) -> Part:
    trials: Sequence[Trial] = [trial for trial in policy.played() if wanted(trial)]
    # a clip of another seed is another clip
    clips = [f"{row['seed']} {trial['clip']}" for row in policy.rows for trial in row["questions"] if wanted(trial)]
    scores = np.array([[trial["score"] for trial in trials]])
    return Part(name, len(trials), aggregate([clustered(scores, clips)], BOOTSTRAP_SEED))
