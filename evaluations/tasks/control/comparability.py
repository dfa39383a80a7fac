"""How far a normalised score in one of today's environments compares with D4RL's tables.

D4RL's data and reference scores come from gym's v2 robots on MuJoCo 1.5 to 2.1. Gymnasium still has v4 (the same robots
on the current MuJoCo) and v5 (which changed rewards and, for Walker2d, the robot itself). Source: Gymnasium's
documentation and version notes of these environments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

NOT_COMPARABLE = "not D4RL-comparable"
Verdict = Literal["comparable", "nearly comparable", "not D4RL-comparable"]


@dataclass(frozen=True)
class Comparability:
    """Whether a score may stand beside D4RL's, and why."""

    verdict: Verdict
    reason: str

    @property
    def sentence(self) -> str:
        """Ends a sentence that begins with "these scores are"."""
        return f"{self.verdict}{' with D4RL tables' if self.comparable else ''}: {self.reason}"

    @property
    def comparable(self) -> bool:
        """False where the score must not be shown without a warning."""
        return self.verdict != NOT_COMPARABLE


_ROBOTS = ("hopper", "halfcheetah", "walker2d")
_SAME_ROBOT = "same robot and reward as D4RL's v2, on the current MuJoCo"
_FALLS = (
    "same robot as D4RL's v2, on the current MuJoCo; v5 no longer pays the healthy reward of the step of a fall, 1 at "
    "most"
)
_FRICTION = (
    "Walker2d-v5 raised the friction of the right foot from 0.9 to 1.9: another robot than the one that D4RL's data "
    "and reference scores come from; Walker2d-v4 is the same"
)
_ANT = "{} observes and pays other things than D4RL's Ant-v2 (contact forces)"

_KNOWN: dict[tuple[str, int], tuple[Verdict, str]] = {
    **{(robot, version): ("comparable", "D4RL's own robot") for robot in _ROBOTS for version in (2, 3)},
    **{(robot, 4): ("nearly comparable", _SAME_ROBOT) for robot in _ROBOTS},
    ("hopper", 5): ("nearly comparable", _FALLS),
    ("halfcheetah", 5): ("nearly comparable", _SAME_ROBOT),
    ("walker2d", 5): (NOT_COMPARABLE, _FRICTION),
    **{("ant", version): ("comparable", "D4RL's own robot") for version in (2, 3)},
    ("ant", 4): (NOT_COMPARABLE, _ANT.format("Ant-v4")),
    ("ant", 5): (NOT_COMPARABLE, _ANT.format("Ant-v5")),
}


def comparability(env_id: str) -> Comparability | None:
    """The verdict on an environment ("Walker2d-v5"); None where D4RL has no scores for it."""
    match = re.fullmatch(r"(?:.*[:/])?(\w+)-v(\d+)", env_id.lower())
    found = _KNOWN.get((match[1], int(match[2]))) if match else None
    return Comparability(*found) if found else None
