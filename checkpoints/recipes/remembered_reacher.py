"""Makes checkpoints/control/reacher: a Decision Transformer that waits, remembers a goal, and reaches for it.

    python checkpoints/recipes/remembered_reacher.py

The scripted expert plays waits of 50 to 150 steps with noise on its torques; the model is trained on whole episodes.
Steps after the go signal weigh more in the loss, because only they depend on the goal. The card compares the full
history with simple cuts of the cache. A killed run continues when started again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from checkpoints.recipes.memory_demonstrations import Demonstrations, shaken
from checkpoints.recipes.memory_recipe import WHOLE_EPISODES, MemoryRecipe, run
from evaluations.tasks.control.d4rl import Episode
from evaluations.tasks.control.remembered_reacher import ENV_ID, GOALS, STATE_NAMES, ScriptedExpert

GO = STATE_NAMES.index("go")
NOISE = 0.05


def reach_weights(episode: Episode) -> Float[np.ndarray, " steps"]:
    """10 from the go signal on, 1 while waiting."""
    return np.where(episode.observations[:, GO] > 0, 10.0, 1.0).astype(np.float32)


def curriculum(update: int) -> int:
    """Longest episode of an update: 110 steps at first, all from update 1,000 on."""
    return 110 + int(90 * min(1.0, max(0, update - 300) / 700))


RECIPE = MemoryRecipe(
    folder="reacher",
    title="remembered-goal Reacher",
    command="python checkpoints/recipes/remembered_reacher.py",
    task=f"""`RememberedReacher-v0` (evaluations/tasks/control/remembered_reacher.py), the MuJoCo arm of Reacher-v5:
one of {GOALS} goals is shown for 3 steps at a random time among decoys on another channel; 40 steps after a go signal
the fingertip must be within 5 cm of the goal. Until the signal the expert acts alike for all goals.""",
    demonstrations=Demonstrations(
        env_id=ENV_ID,
        draw_arguments=lambda random: {"wait_steps": int(random.integers(50, 151))},
        make_expert=lambda _: ScriptedExpert(),
        disturb=shaken(NOISE),
    ),
    disturbance=f"waits of 50 to 150 steps, noise of standard deviation {NOISE} on the torques",
    config=replace(WHOLE_EPISODES, max_ep_len=256, updates=3000),
    step_weights=reach_weights,
    weighting="steps from the go signal on weigh 10 in the loss",
    longest=curriculum,
    settings={"wait 100": {"wait_steps": 100}, "wait 150": {"wait_steps": 150}},
    chance=1 / GOALS,
    chance_words="one goal in eight, and at most one can be within 5 cm",
    remarks="""A model that has lost the goal reaches for the same one in every episode, so rows without it agree: they
all show the share of these episodes that has its goal there.""",
)


if __name__ == "__main__":
    run(RECIPE, __doc__)
