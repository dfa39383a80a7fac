"""NAMMs at a wanted size on a real model, for the recipes that train and judge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evaluations.hindsight.training import shifted
from evaluations.matrix.namms import statistics_of
from evaluations.tasks.lessons import DOCUMENTS, Course, Lesson
from modalities.language.sizing import threshold_for
from namm import NAMM
from namm.policies import Policy, make_policy
from namm.sizing import STEPS, Sized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CALIBRATION = Course(
    tasks=("ruler/niah_multikey_1", DOCUMENTS), lengths=(512,), intervals=(64,), chunk=64
)  # fmt: skip
"""What the threshold is moved on: one interval, at longer ones the newest tokens make up most of what is kept."""
CALIBRATION_SEED = 900
"""Of the prompts on which the threshold is moved."""


def calibrated(
    namm: NAMM, model: PreTrainedModel, lessons: Sequence[Lesson], keep: float, steps: int = 5
) -> tuple[NAMM, Sized]:
    """The NAMM with the threshold at which it keeps the wanted fraction of these prompts, and what it kept there.

    Searched for by halving (`modalities.language.sizing`), because the way from score to size is steep and crooked:
    under `sequence` statistics what is left is standardised anew at each update, so a threshold that a part p of the
    tokens reaches keeps that part of them again and again, and p * interval / (1 - p) slots in the end.
    """
    found = size_found(namm, model, lessons, keep, steps)
    return shifted(namm, found.threshold), found


def size_found(namm: NAMM, model: PreTrainedModel, lessons: Sequence[Lesson], keep: float, steps: int = STEPS) -> Sized:
    """The threshold at which a NAMM keeps the wanted fraction of these prompts, which are all of one interval."""
    interval = lessons[0].interval
    texts = [lesson.ids[: (len(lesson.ids) - 1) // interval * interval + 1] for lesson in lessons]
    return threshold_for(model, under_thresholds(namm, interval), texts, keep, steps)


def under_thresholds(namm: NAMM, interval: int) -> Callable[[float], Policy]:
    """The policy under any threshold, with the statistics that the NAMM was made with."""
    statistics = statistics_of(namm, None)
    return lambda threshold: make_policy(
        "namm", namm=namm, interval=interval, statistics=statistics, threshold=threshold
    )
