"""Makes checkpoints/control/tmaze: a Decision Transformer that uses its full history in the continuous T-maze.

    python checkpoints/recipes/tmaze.py

The scripted expert walks corridors of 50 to 300 steps with action noise; the model is trained on WHOLE episodes,
shortest first, so that a history of 900 tokens is in distribution. Steps at and beyond the junction weigh more in the
loss, because only they depend on the cue. The card compares the full history with simple cuts of the cache. A killed
run continues when started again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from checkpoints.recipes.memory_demonstrations import Demonstrations, shaken
from checkpoints.recipes.memory_recipe import WHOLE_EPISODES, MemoryRecipe, run
from evaluations.tasks.control.d4rl import Episode
from evaluations.tasks.control.tmaze import ENV_ID, ScriptedExpert, memory_steps

SHORTEST, LONGEST = 50, 300
"""Corridors of the demonstrations, steps."""
NOISE = 0.15
"""Standard deviation of the noise on the expert's actions."""

CONFIG = replace(WHOLE_EPISODES, max_ep_len=512, updates=4000)


def junction_weights(episode: Episode) -> Float[np.ndarray, " steps"]:
    """10 where the junction is reached (distance 0 or less), 1 in the corridor."""
    return np.where(episode.observations[:, 0] <= 0.0, 10.0, 1.0).astype(np.float32)


def curriculum(update: int) -> int:
    """Longest episode of an update: 90 steps at first, all from update 1,200 on."""
    return 90 + int(270 * min(1.0, max(0, update - 400) / 800))


RECIPE = MemoryRecipe(
    folder="tmaze",
    title="continuous T-maze",
    command="python checkpoints/recipes/tmaze.py",
    task="""`ContinuousTMaze-v0` (evaluations/tasks/control/tmaze.py): a cue is seen on one step, at a random time
between 10% and 40% of the corridor, among distractor pulses; at the junction the cued arm must be taken. Until the
junction the expert acts alike for both cues.""",
    demonstrations=Demonstrations(
        env_id=ENV_ID,
        draw_arguments=lambda random: {"corridor_steps": int(random.integers(SHORTEST, LONGEST + 1))},
        make_expert=lambda _: ScriptedExpert(),
        disturb=shaken(NOISE),
    ),
    disturbance=f"corridors of {SHORTEST} to {LONGEST} steps, action noise of standard deviation {NOISE}",
    config=CONFIG,
    step_weights=junction_weights,
    weighting="steps at and beyond the junction weigh 10 in the loss",
    longest=curriculum,
    settings={f"{length} steps": {"corridor_steps": length} for length in (150, 200, 300)},
    memory_steps=memory_steps,
    chance=0.5,
    chance_words="two arms",
    remarks="""A model that has lost the cue takes the same arm in every maze, so rows without it agree exactly: they
all show the share of these mazes that has its cue there.""",
)


if __name__ == "__main__":
    run(RECIPE, __doc__)
