"""Makes checkpoints/control/stream: a Decision Transformer that looks items up by their codes.

    python checkpoints/recipes/item_stream.py

One model answers under all three rules of the stream, so that what differs between them is only which items are asked
for. Items are named often under two of the rules, which makes the look-up quick to learn. The scripted expert answers a
share of the questions wrongly, so that its answers in the history are no substitute for the items; wrong answers have
no weight in the loss. A killed run continues when started again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from checkpoints.recipes.memory_demonstrations import Demonstrations, sometimes_wrong
from checkpoints.recipes.memory_recipe import WHOLE_EPISODES, MemoryRecipe, run
from evaluations.tasks.control.d4rl import Episode
from evaluations.tasks.control.item_stream import (
    CEILING,
    CHANCE,
    CODE,
    ENV_ID,
    EXAM,
    ITEM,
    NAMED,
    RULES,
    SHORTEST,
    WIDTH,
    ScriptedExpert,
    right_answers,
)

STEPS = 140
"""Of the streams that the suite plays, and of the longest in training."""
MOST_WRONG = 0.75
"""Largest share of wrong answers in an episode; as many as a guess gets wrong."""
EMBEDDED = 0.1
"""Weight of each number of a state in a dimension of its own at the start."""
SHARPNESS = 1.5
"""Weight of queries and keys of the codes in the first layer at the start."""


def answer_weights(episode: Episode) -> Float[np.ndarray, " steps"]:
    """1 for a right answer, 0 for a wrong one, 0.05 where none is wanted."""
    wanted = right_answers(episode.observations)
    right = episode.actions.argmax(1) == wanted
    return np.select([wanted < 0, right], [0.05, 1.0], 0.0).astype(np.float32)


@torch.no_grad()
def looking_up(model: torch.nn.Module) -> None:
    """Adds a look-up to the fresh weights: the first layer's query is the named code, its key the item's.

    Each number of a state gets a dimension of its own. What is done with what is found is left to training.
    """
    width = model.embed_state.weight.shape[0]
    model.embed_state.weight[torch.arange(WIDTH), torch.arange(WIDTH)] += EMBEDDED
    projection, head = model.encoder.h[0].attn.c_attn.weight, torch.arange(CODE)  # [width, query key value]
    projection[torch.arange(NAMED.start, NAMED.stop), head] += SHARPNESS
    projection[torch.arange(ITEM.start, ITEM.stop), width + head] += SHARPNESS


def draw_arguments(random: np.random.Generator) -> dict[str, str | int]:
    """A rule and a length; every fourth stream is as long as those of the suite."""
    steps = int(random.integers(SHORTEST, STEPS + 1)) if random.random() < 0.75 else STEPS
    return {"rule": RULES[int(random.integers(len(RULES)))], "steps": steps}


RECIPE = MemoryRecipe(
    folder="stream",
    title="stream of items",
    command="python checkpoints/recipes/item_stream.py",
    task=f"""`ItemStream-v0` (evaluations/tasks/control/item_stream.py): three steps of four show an item, a code of
{CODE} signs and one of four values. An exam at the end names {EXAM} codes and wants their values. All items look
alike; the rule tells which are asked for. *unasked*: every item but these is asked for once, within a few steps.
*twice*: every item is asked for once, these a second time. *marked*: the codes of these come again, among codes that
belong to no item, and no answer is wanted. One model plays all three.""",
    demonstrations=Demonstrations(
        env_id=ENV_ID,
        draw_arguments=draw_arguments,
        make_expert=lambda _: ScriptedExpert(),
        disturb=sometimes_wrong(MOST_WRONG),
        episodes=3000,
    ),
    disturbance=f"streams of {SHORTEST} to {STEPS} steps before the exam, rules drawn alike; a share of the answers, "
    f"drawn from 0 to {MOST_WRONG} for each episode, is made wrong",
    config=replace(
        WHOLE_EPISODES, max_ep_len=256, updates=1000, stop_after=600, return_scale=10.0, bf16=False, save_every=50
    ),
    step_weights=answer_weights,
    weighting="wrong answers have no weight in the loss, steps without a question a twentieth",
    prepare=looking_up,
    start_words="""The first layer starts with queries from the named code and keys from the item's code; all else
is random (`looking_up` in the recipe).""",
    settings={rule: {"rule": rule, "steps": STEPS} for rule in RULES},
    chance=0.25,
    chance_words="four values",
    answers=True,
    budgets=(30,),
    knowing=(12,),
    remarks="""Training was set to 1,000 updates and stopped at this one, its loss below 0.001; no
policy's score had a part in that, though some had been looked at (12 episodes, at update 150).
Cues + newest keeps the states that show the items of the exam, and the newest tokens: no policy, but it shows that
this size is enough.""",
    reference_scores=(CHANCE, CEILING),
)


if __name__ == "__main__":
    run(RECIPE, __doc__)
