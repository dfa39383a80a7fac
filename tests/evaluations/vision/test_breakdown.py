"""Parts of the questions have intervals of their own, also where all are right."""

from __future__ import annotations

import pytest

from evaluations.analysis.summary import policy_summary
from evaluations.vision.breakdown import by_age, by_kind


def summary_of(trials: list[tuple[str, str, float, int | None]]):
    questions = [
        {"id": str(number), "clip": clip, "kind": kind, "score": score, "age": age}
        for number, (clip, kind, score, age) in enumerate(trials)
    ]
    row = {
        "target": "t", "task": "t", "policy": "window", "seed": 0, "score": 0.0, "score_name": "accuracy",
        "identity": {"modality": "video"}, "metrics": {}, "memory": {"asked_to_evict": True}, "questions": questions,
    }  # fmt: skip
    return policy_summary("t", "window", [row])


def test_all_right_is_not_certain() -> None:
    """Ten clips all right: Wilson's interval reaches down to 72; of one clip asked ten times nobody knows as much."""
    alone = by_kind(summary_of([(str(n), "colour", 100.0, 3) for n in range(10)]))[0]
    assert (alone.score.value, alone.score.high) == (100.0, 100.0)
    assert alone.score.low == pytest.approx(72.2, abs=0.1)
    together = by_age(summary_of([("one", "colour", 100.0, 3)] * 10))[0]
    assert together.score.low == pytest.approx(20.7, abs=0.1)


def test_each_part_has_its_questions() -> None:
    trials = [("a", "colour", 100.0, 0), ("b", "colour", 0.0, 5), ("a", "shape", 100.0, 40), ("c", "shape", 0.0, None)]
    parts = {part.name: (part.count, part.score.value) for part in by_kind(summary_of(trials))}
    assert parts == {"colour": (2, 50.0), "shape": (2, 50.0)}
    ages = {part.name: (part.count, part.score.value) for part in by_age(summary_of(trials))}
    assert ages == {"0–3 frames": (1, 100.0), "4–7 frames": (1, 0.0), "32 frames or more": (1, 100.0)}
