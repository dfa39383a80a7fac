"""What comes with the project to be evaluated: every shipped target by name, and suites of them.

A target is a checkpoint in `checkpoints/control`, played in the environment that its `control.json` names, a suite an
ordered set of targets. A target whose checkpoint has not been made yet is known by name, and the command that makes
it is part of the error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from evaluations.tasks.control.shipped_target import SHIPPED_FOLDER, Shipped
from evaluations.tasks.outside import GROUP, is_task
from namm.errors import CheckpointError, UnknownNameError, did_you_mean
from namm.outside import Registry

ROBOTS = ("hopper", "halfcheetah", "walker2d")
TIERS = ("medium", "medium-replay", "medium-expert")
LOCOMOTION = tuple(f"{robot}-{tier}" for robot in ROBOTS for tier in TIERS)
"""The nine cells of D4RL's locomotion tables."""


def _maze(steps: int, episodes: int, cues: int = 1, in_quick: bool = False) -> Shipped:
    """A T-maze: one cue, or a vote over several."""
    folder, recipe = ("tmaze", "tmaze") if cues == 1 else ("tmaze-cues", "tmaze_cues")
    env_kwargs = {"corridor_steps": steps, **({} if cues == 1 else {"cues": cues})}
    command = f"python checkpoints/recipes/{recipe}.py"
    name = f"tmaze-{steps}" if cues == 1 else f"tmaze-{cues}cues-{steps}"
    return Shipped(name, folder, episodes, quick_episodes=8, env_kwargs=env_kwargs, in_quick=in_quick, recipe=command)


def _reacher(wait: int, episodes: int, in_quick: bool = False) -> Shipped:
    """A remembered-goal Reacher."""
    command = "python checkpoints/recipes/remembered_reacher.py"
    played = {"env_kwargs": {"wait_steps": wait}, "in_quick": in_quick, "recipe": command}
    return Shipped(f"reacher-{wait}", "reacher", episodes, quick_episodes=8, **played)


def _recall(game: str) -> Shipped:
    """A recall game of POPGym; its score is a mean over many answers, so that a few episodes are enough."""
    command = f"python checkpoints/recipes/popgym_recall.py {game}"
    return Shipped(game, game, episodes=8, quick_episodes=2, recipe=command)


def _stream(rule: str) -> Shipped:
    """A stream of items under one of its rules; its exam has several answers."""
    command = "python checkpoints/recipes/item_stream.py"
    return Shipped(f"stream-{rule}", "stream", episodes=24, quick_episodes=4, env_kwargs={"rule": rule}, recipe=command)


HARD = tuple(_stream(rule) for rule in ("unasked", "twice", "marked"))
"""Tasks in which what is needed is as distinct as what is not."""
OURS = (
    *(
        Shipped(cell, cell, episodes=4, quick_episodes=1, recipe=f"python checkpoints/recipes/locomotion.py {cell}")
        for cell in LOCOMOTION
    ),
    _maze(150, 32, in_quick=True),
    _maze(200, 32),
    _maze(300, 16),
    _maze(150, 32, cues=3, in_quick=True),
    _reacher(100, 32, in_quick=True),
    _reacher(150, 16),
    _recall("repeat-previous"),
    _recall("autoencode"),
    *HARD,
)
SHIPPED: Registry[Shipped] = Registry(
    OURS, lambda thing: thing if isinstance(thing, Shipped) else None, "a Shipped", GROUP, is_task
)
"""Every target that is known by name, those of other packages among them; its environment is the one that the
checkpoint's `control.json` names."""

SUITES: dict[str, tuple[str, ...]] = {
    "default": ("hopper-medium-expert", "tmaze-150", "tmaze-300"),
    "d4rl": LOCOMOTION,
    "memory": tuple(target.name for target in OURS if target.name not in LOCOMOTION and target not in HARD),
    "memory-hard": tuple(target.name for target in HARD),
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
