"""What comes with the project to be evaluated: every shipped target by name, and suites of them.

A target is a checkpoint in `checkpoints/control`, played in the environment that its `control.json` names, a suite an
ordered set of targets. A target whose checkpoint has not been made yet is known by name, and the command that makes
it is part of the error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
from modalities.control.facts import ControlFacts
from namm.errors import CheckpointError, UnknownNameError, did_you_mean

SHIPPED_FOLDER = Path(checkpoints.__file__).parent / "control"


@dataclass(frozen=True)
class Shipped:
    """A target that comes with the project."""

    folder: str
    """Folder of the checkpoint in `checkpoints/control`."""
    episodes: int
    """Episodes of one seed."""
    quick_episodes: int
    """The same in the short form (`--quick`)."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment, over those that the checkpoint names."""
    in_quick: bool = True
    """Not left out in the short form of a suite."""
    recipe: str = ""
    """Command that makes the checkpoint, run from the root of the repository."""

    @property
    def path(self) -> Path:
        """Folder of the checkpoint."""
        return SHIPPED_FOLDER / self.folder

    @property
    def env_id(self) -> str:
        """Environment that the checkpoint names; empty where it has not been made."""
        facts = self.path / "control.json"
        return ControlFacts.from_json(facts).env_id if facts.is_file() else ""


ROBOTS = ("hopper", "halfcheetah", "walker2d")
TIERS = ("medium", "medium-replay", "medium-expert")
LOCOMOTION = tuple(f"{robot}-{tier}" for robot in ROBOTS for tier in TIERS)
"""The nine cells of D4RL's locomotion tables."""


def _maze(steps: int, episodes: int, cues: int = 1, in_quick: bool = False) -> Shipped:
    """A T-maze: one cue, or a vote over several."""
    folder, recipe = ("tmaze", "tmaze") if cues == 1 else ("tmaze-cues", "tmaze_cues")
    env_kwargs = {"corridor_steps": steps, **({} if cues == 1 else {"cues": cues})}
    command = f"python checkpoints/recipes/{recipe}.py"
    return Shipped(folder, episodes, quick_episodes=8, env_kwargs=env_kwargs, in_quick=in_quick, recipe=command)


def _reacher(wait: int, episodes: int, in_quick: bool = False) -> Shipped:
    """A remembered-goal Reacher."""
    command = "python checkpoints/recipes/remembered_reacher.py"
    env_kwargs = {"wait_steps": wait}
    return Shipped("reacher", episodes, quick_episodes=8, env_kwargs=env_kwargs, in_quick=in_quick, recipe=command)


def _recall(game: str) -> Shipped:
    """A recall game of POPGym; its score is a mean over many answers, so that a few episodes are enough."""
    command = f"python checkpoints/recipes/popgym_recall.py {game}"
    return Shipped(game, episodes=8, quick_episodes=2, recipe=command)


SHIPPED: dict[str, Shipped] = {
    **{
        cell: Shipped(cell, episodes=4, quick_episodes=1, recipe=f"python checkpoints/recipes/locomotion.py {cell}")
        for cell in LOCOMOTION
    },
    "tmaze-150": _maze(150, 32, in_quick=True),
    "tmaze-200": _maze(200, 32),
    "tmaze-300": _maze(300, 16),
    "tmaze-3cues-150": _maze(150, 32, cues=3, in_quick=True),
    "reacher-100": _reacher(100, 32, in_quick=True),
    "reacher-150": _reacher(150, 16),
    "repeat-previous": _recall("repeat-previous"),
    "autoencode": _recall("autoencode"),
}
"""Every target that is known by name; its environment is the one that the checkpoint's `control.json` names."""

SUITES: dict[str, tuple[str, ...]] = {
    "default": ("hopper-medium-expert", "tmaze-150", "tmaze-300"),
    "d4rl": LOCOMOTION,
    "memory": tuple(name for name in SHIPPED if name not in LOCOMOTION),
}
"""`default` runs when nothing is named: standard locomotion, and mazes that cannot be solved without memory."""


def targets_of(suites: Sequence[str], quick: bool = False) -> list[str]:
    """The targets of some suites, each once, in order; in the short form without the slow ones.

    Raises:
        UnknownNameError: There is no such suite.
    """
    names: dict[str, None] = {}
    for suite in suites:
        if suite not in SUITES:
            raise UnknownNameError(f"Unknown suite {suite!r}. {did_you_mean(suite, SUITES)}")
        names |= dict.fromkeys(name for name in SUITES[suite] if SHIPPED[name].in_quick or not quick)
    return list(names)


def best_for(env_id: str) -> str | None:
    """The shipped target of an environment, whatever its version ("Hopper-v4" -> "hopper-medium-expert")."""
    fitting = [name for name, shipped in SHIPPED.items() if _unversioned(shipped.env_id) == _unversioned(env_id)]
    return next((name for name in fitting if name.endswith("-medium-expert")), fitting[0] if fitting else None)


def _unversioned(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2].rpartition(":")[2]).lower()


def require_checkpoints(names: Iterable[str]) -> None:
    """Checks that the checkpoints of these targets have been made.

    Raises:
        CheckpointError: One has not; the message holds the commands that make them.
    """
    missing = [name for name in names if not (SHIPPED[name].path / "model.safetensors").is_file()]
    if missing:
        commands = "\n".join(dict.fromkeys(f"  {SHIPPED[name].recipe}" for name in missing))
        raise CheckpointError(
            f"expected the checkpoints of {', '.join(missing)} in {SHIPPED_FOLDER}, found none; make them (hours on "
            f"two cores), or name other targets:\n{commands}"
        )
