"""Accuracy by parts of the questions: of each kind, and by how long ago the evidence was seen, with intervals.

Questions about one clip are drawn together, as in the tables of whole tasks (evaluations/analysis/clusters.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluations.analysis.aggregates import aggregate
from evaluations.analysis.clusters import clustered
from evaluations.analysis.estimates import Estimate, success_rate
from evaluations.analysis.summary import BOOTSTRAP_SEED, PolicySummary, scaled
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
    return Part(name, len(trials), _estimate([trial["score"] for trial in trials], clips))


def _estimate(scores: Sequence[float], clips: Sequence[str]) -> Estimate:
    """The mean; Wilson's interval where questions are independent, or all answered alike, which no bootstrap knows.

    In the second case clips count, for what is asked about one is answered alike also by chance.
    """
    if len(set(clips)) == len(clips):
        return scaled(success_rate([score / 100.0 for score in scores]), 100.0)
    if len(set(scores)) == 1:
        return scaled(success_rate([scores[0] / 100.0] * len(set(clips))), 100.0)
    return aggregate([clustered(np.array([scores]), clips)], BOOTSTRAP_SEED)
