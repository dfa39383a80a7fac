"""Offline control data as D4RL defines it: episodes, state statistics, tasks with reference scores, normalised scores.

A Decision Transformer is fed whitened states and reports return on D4RL's scale, where 0 is a random policy and 100 an
expert, so both need facts that live in the dataset and not in the model. Every task of D4RL's Gym-MuJoCo, AntMaze,
Maze2D, Kitchen and Adroit suites is known by name, with its file and its scores (`d4rl_tasks.json`); the state
statistics of the twelve v2 locomotion sets are shipped (`d4rl_state_statistics.json`), so that checkpoints published
for them run without the data. Files are read and written in `d4rl_files.py` and `minari_files.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Float

from evaluations.tasks.control import d4rl_package
from modalities.control.agents import StateStatistics
from namm.errors import DataError, UnknownNameError, did_you_mean

STD_FLOOR = 1e-6
"""Added to every standard deviation before dividing, as the Decision Transformer's reference code does."""

LOCOMOTION = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "ant": "Ant"}
"""D4RL's robots and what Gymnasium calls them."""


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
    truncated: bool | None = None
    """Time ran out, which may coincide with a fall; None: exactly where it did not end by itself."""

    @property
    def timed_out(self) -> bool:
        """Whether time ran out at its last step."""
        return not self.terminated if self.truncated is None else self.truncated

    @property
    def total(self) -> float:
        """Undiscounted return."""
        return float(self.rewards.sum(dtype=np.float64))

    def returns_to_go(self) -> Float[np.ndarray, " steps"]:
        """Undiscounted sum of the rewards from each step to the end."""
        return self.rewards[::-1].cumsum(dtype=np.float64)[::-1]


@dataclass(frozen=True)
class OfflineDataset:
    """Episodes, and what is stored or known beside them."""

    name: str
    """File or id."""
    kind: str
    """What it is, such as "Minari dataset"."""
    episodes: list[Episode]
    """Complete episodes, in order."""
    left_out: int = 0
    """Steps of unfinished episodes, which are not used."""
    env_id: str | None = None
    """Gymnasium id of the environment that the states come from."""
    reference_scores: tuple[float, float] | None = None
    """Return of a random and of an expert policy."""
    remarks: tuple[str, ...] = ()
    """What a careful reader should know about the data."""


def state_statistics(episodes: Sequence[Episode]) -> StateStatistics:
    """Statistics over every step of every episode, in float64 and without a copy of the data.

    Raises:
        DataError: There is no episode.
    """
    if not episodes:
        raise DataError(
            "expected at least one complete episode, found none; nothing to take state statistics from (does a flag in "
            "terminals or timeouts mark where an episode ends?)"
        )
    steps = sum(len(episode.rewards) for episode in episodes)
    zero = np.zeros(episodes[0].observations.shape[1])
    mean = sum((episode.observations.sum(0, dtype=np.float64) for episode in episodes), zero) / steps
    squares = sum((np.square(episode.observations - mean).sum(0) for episode in episodes), zero)
    return StateStatistics(mean, np.sqrt(squares / steps) + STD_FLOOR)


@dataclass(frozen=True)
class D4RLTask:
    """A dataset of D4RL."""

    name: str
    """Such as "hopper-medium-v2"."""
    path: str
    """Where the file lies below the server's root."""
    steps: int
    """Longest episode; where a file has no `timeouts`, an episode is cut after so many steps."""
    reference: tuple[float, float]
    """Return of a random and of an expert policy."""

    @property
    def file(self) -> str:
        """Name of its file, in D4RL's cache as on the server."""
        return self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        """Where the file is published."""
        return _tables("d4rl_tasks.json")["base"] + self.path

    @property
    def env_id(self) -> str | None:
        """The Gymnasium environment in which D4RL's scores compare best; None where that is not part of Gymnasium.

        Gymnasium's documentation calls v4 comparable with D4RL's v2 for every robot but Ant, whose observations have
        lost the contact forces.
        """
        robot = self.name.partition("-")[0]
        return f"{LOCOMOTION[robot]}-v4" if robot in LOCOMOTION and robot != "ant" else None


@cache
def _tables(file: str) -> dict[str, Any]:
    return json.loads(resources.files("evaluations.tasks.control").joinpath(file).read_text("utf-8"))


@cache
def tasks() -> dict[str, D4RLTask]:
    """Every task, by its full name."""
    known = _tables("d4rl_tasks.json")["tasks"].items()
    return {name: D4RLTask(name, v["path"], v["steps"], tuple(v["reference"])) for name, v in known}


def find_task(name: str) -> D4RLTask | None:
    """The task of that name; without a version the newest one ("hopper-medium"); None if D4RL has no such task."""
    name = name.lower().replace("_", "-")
    found = [task for full, task in tasks().items() if full == name or re.fullmatch(rf"{re.escape(name)}-v\d", full)]
    return max(found, key=lambda task: task.name, default=None)


def task_of_file(file_name: str) -> D4RLTask | None:
    """The task whose file has that name ("hopper_medium-v2.hdf5"), or is named after it ("hopper-medium-v2.h5")."""
    file_name = file_name.removesuffix(".gz")
    same = [task for task in tasks().values() if task.file == file_name]
    return same[0] if same else find_task(file_name.rpartition(".")[0] or file_name)


def task_in(text: str) -> D4RLTask | None:
    """The locomotion task that a checkpoint's name speaks of ("decision-transformer-gym-hopper-medium")."""
    text = text.lower().replace("_", "-")
    names = sorted({re.sub(r"-v\d$", "", name) for name in tasks() if name.partition("-")[0] in LOCOMOTION}, key=len)
    for name in reversed(names):  # medium-replay before medium
        match = re.search(rf"(?<![a-z]){name}(-v[0-2])?(?![a-z0-9])(?!-v\d)", text)
        if match:
            return find_task(match.group(0)) or find_task(name)
    return None


def has_published_statistics(name: str) -> bool:
    """Whether `published_statistics` knows a set."""
    return name.removesuffix("-v2") in _tables("d4rl_state_statistics.json")["statistics"]


def published_statistics(name: str) -> StateStatistics:
    """State statistics of a D4RL v2 set, such as "hopper-medium", as its published checkpoints use them.

    Raises:
        UnknownNameError: There is no such set.
    """
    known = _tables("d4rl_state_statistics.json")["statistics"]
    short = name.removesuffix("-v2")
    if short not in known:
        raise UnknownNameError(f"no published state statistics for {name!r}. {did_you_mean(name, known)}")
    return StateStatistics(np.array(known[short]["mean"]), np.array(known[short]["std"]) + STD_FLOOR)


def reference_scores(name: str) -> tuple[float, float]:
    """(random, expert) return for a D4RL set ("hopper-medium-expert-v2"), a robot, or its environment ("Hopper-v5").

    Where the d4rl package is installed its table is asked first. A set without a version is the newest one.

    Raises:
        UnknownNameError: D4RL defines no scores for it.
    """
    task = find_task(name)
    if task is not None:
        return d4rl_package.reference_scores(task.name) or task.reference
    family = re.sub(r"-v\d+$", "", name.rpartition("/")[2].rpartition(":")[2].lower())
    of_family = {task.reference for task in tasks().values() if task.name.partition("-")[0] == family}
    if len(of_family) == 1:  # a robot, or a suite whose tasks share their scores
        return of_family.pop()
    names = {re.sub(r"-v\d$", "", task) for task in tasks()}
    beginnings = {task.partition("-")[0] for task in names}
    start = name.lower().partition("-")[0]
    alike = {task for task in names if task.startswith(f"{start}-")} or beginnings
    raise UnknownNameError(f"D4RL has no reference scores for {name!r}. {did_you_mean(name.lower(), alike)}")


def normalised_score(total: float, reference: tuple[float, float]) -> float:
    """A return on D4RL's scale, times 100 as papers print it: 0 = random policy, 100 = expert."""
    worst, best = reference
    return 100.0 * (total - worst) / (best - worst)
