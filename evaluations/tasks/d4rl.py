"""Offline control data as D4RL defines it: episodes, state statistics, reference scores, normalised scores.

A Decision Transformer is fed whitened states and reports return on D4RL's scale, where 0 is a random policy and 100 an
expert, so both need facts that live in the dataset and not in the model. Files are read and written in `d4rl_files.py`;
the statistics of the twelve D4RL v2 locomotion sets are shipped (`d4rl_state_statistics.json`), so that published
checkpoints run without the data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jaxtyping import Float

from modalities.control import StateStatistics
from namm.errors import DataError, UnknownNameError, did_you_mean

STD_FLOOR = 1e-6
"""Added to every standard deviation before dividing, as the Decision Transformer's reference code does."""


@dataclass(frozen=True)
class Episode:
    """One complete episode of T steps."""

    observations: Float[np.ndarray, "steps state"]
    """State before each action."""
    actions: Float[np.ndarray, "steps action"]
    """Action taken in that state."""
    rewards: Float[np.ndarray, " steps"]
    """Reward received for it."""
    last_observation: Float[np.ndarray, " state"]
    """State after the last action."""
    terminated: bool
    """The episode ended by itself (a fall, a goal); False means that time ran out."""

    @property
    def total(self) -> float:
        """Undiscounted return."""
        return float(self.rewards.sum(dtype=np.float64))

    def returns_to_go(self) -> Float[np.ndarray, " steps"]:
        """Undiscounted sum of the rewards from each step to the end."""
        return self.rewards[::-1].cumsum(dtype=np.float64)[::-1]


def state_statistics(episodes: list[Episode]) -> StateStatistics:
    """Statistics over every step of every episode.

    Raises:
        DataError: There is no episode.
    """
    if not episodes:
        raise DataError("expected at least one complete episode, found none; nothing to take state statistics from")
    states = np.concatenate([episode.observations for episode in episodes]).astype(np.float64)
    return StateStatistics(states.mean(0), states.std(0) + STD_FLOOR)


def published_statistics(name: str) -> StateStatistics:
    """State statistics of a D4RL v2 set, such as "hopper-medium", as its published checkpoints use them.

    Raises:
        UnknownNameError: There is no such set.
    """
    text = resources.files("evaluations.tasks").joinpath("d4rl_state_statistics.json").read_text("utf-8")
    known = json.loads(text)["statistics"]
    if name not in known:
        raise UnknownNameError(f"no published state statistics for {name!r}. {did_you_mean(name, known)}")
    return StateStatistics(np.array(known[name]["mean"]), np.array(known[name]["std"]) + STD_FLOOR)


REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
"""Return of a random and of an expert policy (d4rl/infos.py); the same for v0, v1, v2 and every quality."""

QUALITIES = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
"""Data qualities of D4RL's locomotion sets."""


def reference_scores(name: str) -> tuple[float, float]:
    """(random, expert) return for an environment ("Hopper-v5", "hopper") or a D4RL set ("hopper-medium-expert-v2").

    Raises:
        UnknownNameError: D4RL defines no scores for it.
    """
    robot, *rest = name.lower().split("-")
    quality = "-".join(part for part in rest if not (part.startswith("v") and part[1:].isdigit()))
    if robot not in REFERENCE_SCORES or (quality and quality not in QUALITIES):
        known = [*REFERENCE_SCORES, *(f"{robot}-{quality}" for robot in REFERENCE_SCORES for quality in QUALITIES)]
        raise UnknownNameError(f"D4RL has no reference scores for {name!r}. {did_you_mean(name.lower(), known)}")
    return REFERENCE_SCORES[robot]


def normalised_score(total: float, reference: tuple[float, float]) -> float:
    """A return on D4RL's scale, times 100 as papers print it: 0 = random policy, 100 = expert."""
    worst, best = reference
    return 100.0 * (total - worst) / (best - worst)
