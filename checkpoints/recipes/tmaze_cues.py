"""Makes checkpoints/control/tmaze-cues: a Decision Transformer that takes a vote over the cues of a T-maze.

    python checkpoints/recipes/tmaze_cues.py

The same as tmaze.py with 1 or 3 cues, whose majority names the arm, and corridors of at most 240 steps. Training starts
from the weights of checkpoints/control/tmaze, which already walk and remember one cue; only the vote is new.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

import checkpoints
from checkpoints.recipes import tmaze
from checkpoints.recipes.memory_recipe import run
from evaluations.tasks.control.d4rl import Episode

CUES = (1, 3)
LONGEST = 240
"""Longest corridor, steps; the longest ones are the rarest in training."""
VOTE_STEPS = 3
"""Steps at the junction before the turn can be seen in the state."""


def draw_arguments(random: np.random.Generator) -> dict[str, int]:
    """A corridor length and a number of cues, 3 in two of three episodes."""
    corridor = int(random.integers(tmaze.SHORTEST, LONGEST + 1))
    return {"corridor_steps": corridor, "cues": CUES[int(random.random() < 2 / 3)]}


def vote_weights(episode: Episode) -> Float[np.ndarray, " steps"]:
    """100 on the first steps at the junction, where the vote is taken: later ones can follow the turn in the state."""
    weights = tmaze.junction_weights(episode)
    arrival = int(np.flatnonzero(weights > 1)[0])
    weights[arrival : arrival + VOTE_STEPS] = 100.0
    return weights


def setting(corridor: int) -> tuple[str, dict[str, int]]:
    """A column of the card."""
    return f"3 cues, {corridor} steps", {"corridor_steps": corridor, "cues": 3}


RECIPE = replace(
    tmaze.RECIPE,
    folder="tmaze-cues",
    title="continuous T-maze with three cues",
    command="python checkpoints/recipes/tmaze_cues.py",
    task="""`ContinuousTMaze-v0` (evaluations/tasks/control/tmaze.py) with 3 cues (in a third of the demonstrations 1):
they are seen on single steps, at random times between 10% and 40% of the corridor, among distractor pulses; at the
junction the arm that most cues named must be taken. The majority always wins by one, so every cue counts: who
remembers only one or two of 3 cues is right in two of three mazes at best. Until the junction the expert acts alike
    for all cues.""",
    demonstrations=replace(tmaze.RECIPE.demonstrations, draw_arguments=draw_arguments, seed=1),
    disturbance=f"corridors of {tmaze.SHORTEST} to {LONGEST} steps, action noise of standard deviation {tmaze.NOISE}",
    config=replace(tmaze.CONFIG, updates=3000),
    step_weights=vote_weights,
    weighting="the first 3 steps at the junction weigh 100 in the loss, those after them 10",
    longest=None,
    start=Path(checkpoints.__file__).parent / "control" / "tmaze",
    start_words="Weights and state statistics start as those of checkpoints/control/tmaze.",
    settings=dict(setting(corridor) for corridor in (150, 100, 200)),
    remarks="""This training was chosen on other mazes; earlier ones had fewer updates, less weight on the vote
and corridors to 300 steps (one with 5 cues, too, which came out at 0.51). Away from 150 steps the vote is not
reliable, so the suite plays corridors of 150 steps.""",
)


if __name__ == "__main__":
    run(RECIPE, __doc__)
