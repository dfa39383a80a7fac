"""Makes checkpoints/control/tmaze-cues: a Decision Transformer that takes a vote over the cues of a T-maze.

    python checkpoints/recipes/tmaze_cues.py

The same as tmaze.py with 1, 3 or 5 cues, whose majority names the arm. Training starts from the weights of
checkpoints/control/tmaze, which already walk and remember one cue; only the vote is new.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import checkpoints
from checkpoints.recipes import tmaze
from checkpoints.recipes.memory_recipe import run

CUES = (1, 3, 5)


def draw_arguments(random: np.random.Generator) -> dict[str, int]:
    """A corridor length and a number of cues."""
    corridor = int(random.integers(tmaze.SHORTEST, tmaze.LONGEST + 1))
    return {"corridor_steps": corridor, "cues": int(random.choice(CUES))}


def setting(cues: int, corridor: int) -> tuple[str, dict[str, int]]:
    """A column of the card."""
    return f"{cues} cues, {corridor} steps", {"corridor_steps": corridor, "cues": cues}


RECIPE = replace(
    tmaze.RECIPE,
    folder="tmaze-cues",
    title="continuous T-maze with several cues",
    command="python checkpoints/recipes/tmaze_cues.py",
    task="""`ContinuousTMaze-v0` (evaluations/tasks/tmaze.py) with 1, 3 or 5 cues: they are seen on single steps, at
random times between 10% and 40% of the corridor, among distractor pulses; at the junction the arm that most cues named
must be taken. The majority always wins by one, so every cue counts: who has lost all but one of 3 is right in 2 of 3
mazes, of 5 in 3 of 5. Until the junction the expert acts alike for all cues.""",
    demonstrations=replace(tmaze.RECIPE.demonstrations, draw_arguments=draw_arguments, episodes=1500, seed=1),
    config=replace(tmaze.CONFIG, updates=1000, learning_rate=5e-4),
    longest=lambda update: 90 + int(270 * min(1.0, max(0, update - 50) / 250)),
    start=Path(checkpoints.__file__).parent / "control" / "tmaze",
    start_words="Weights and state statistics are those of checkpoints/control/tmaze at the start.",
    settings=dict(setting(*one) for one in ((3, 150), (3, 300), (5, 150))),
    remarks="",
)


if __name__ == "__main__":
    run(RECIPE, __doc__)
