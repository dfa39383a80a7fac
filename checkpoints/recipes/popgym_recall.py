"""Makes checkpoints/control/repeat-previous and checkpoints/control/autoencode: two recall games of POPGym.

    python checkpoints/recipes/popgym_recall.py repeat-previous
    python checkpoints/recipes/popgym_recall.py autoencode

The scripted expert answers a share of the questions wrongly, drawn anew for each episode, so that a model's own
mistakes are nothing new to it; wrong answers have no weight in the loss. Both games ask for what lies at a place in
time, so the table of timesteps starts as sinusoids, in which a shift of time is a rotation; `autoencode` starts from
the model of `repeat-previous`. A killed run continues when started again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from checkpoints.recipes.memory_demonstrations import Demonstrations, sometimes_wrong
from checkpoints.recipes.memory_recipe import WHOLE_EPISODES, MemoryRecipe, run
from evaluations.control.shipped import SHIPPED_FOLDER
from evaluations.tasks.control.d4rl import Episode
from evaluations.tasks.control.popgym_recall import CARDS, CEILING, CHANCE, DELAY, ENV_ID, SUITS, ScriptedExpert
from modalities.control.agents import ControlModel

MOST_WRONG = 0.75
"""Largest share of wrong answers in an episode; as many as a guess gets wrong."""
LONGEST_WAVE = 200.0
"""Wavelengths of the sinusoids go from 1 to this, times 2 pi steps."""
AMPLITUDE = 0.05
"""Of the sinusoids: about that of a card's embedding at the start, so that neither drowns the other."""


def answer_weights(episode: Episode) -> Float[np.ndarray, " steps"]:
    """1 for a right answer, 0 for a wrong one, 0.1 where nothing is asked."""
    return np.select([episode.rewards > 0, episode.rewards < 0], [1.0, 0.0], 0.1).astype(np.float32)


@torch.no_grad()
def sinusoidal_time(model: torch.nn.Module) -> None:
    """Replaces the table of timesteps by sinusoids, half sine and half cosine."""
    table = model.embed_timestep.weight  # [steps, width]
    half = table.shape[1] // 2
    frequency = LONGEST_WAVE ** (-torch.arange(half) / half)
    phase = torch.arange(table.shape[0])[:, None] * frequency
    table.copy_(AMPLITUDE * torch.cat([phase.sin(), phase.cos()], dim=1))


@torch.no_grad()
def remembering_start(model: torch.nn.Module) -> None:
    """Copies the shipped `repeat-previous` model, with its clock turned so that what it looks up is what is asked here.

    When `autoencode` asks, exactly 13 cards of each suit have been seen: attention to all of them alike tells nothing,
    so nothing pulls it towards the right card, and from other starts the places are learned slowly, one by one. That
    model finds the card of `DELAY` steps ago; here the card of step s is asked for at step 2 last - s. Counting time
    backwards while cards are dealt, and from `DELAY` on while they are asked for, makes the two the same.
    """
    learned = ControlModel.load(SHIPPED_FOLDER / "repeat-previous").model.state_dict()
    model.embed_state.weight[:, -SUITS:] = learned.pop("embed_state.weight")
    own = model.state_dict()
    model.load_state_dict({**own, **{name: it for name, it in learned.items() if it.shape == own[name].shape}})
    dealt, asked = torch.arange(CARDS).flip(0), torch.arange(1, CARDS) + DELAY
    clock = torch.cat([dealt, asked])
    model.embed_timestep.weight[: len(clock)] = learned["embed_timestep.weight"][clock]


def recipe(
    game: str,
    title: str,
    task: str,
    start: Callable[[torch.nn.Module], None],
    start_words: str,
    remarks: str,
) -> MemoryRecipe:
    """The recipe of a game."""
    return MemoryRecipe(
        folder=game,
        title=title,
        command=f"python checkpoints/recipes/popgym_recall.py {game}",
        task=task,
        demonstrations=Demonstrations(
            env_id=ENV_ID,
            draw_arguments=lambda _: {"game": game},
            make_expert=lambda arguments: ScriptedExpert(arguments["game"]),
            disturb=sometimes_wrong(MOST_WRONG),
            episodes=1500,
        ),
        disturbance=f"a share of whose answers, drawn from 0 to {MOST_WRONG} for each episode, is made wrong",
        config=replace(WHOLE_EPISODES, max_ep_len=256, updates=1000, return_scale=10.0),
        step_weights=answer_weights,
        weighting="wrong answers have no weight in the loss, steps without a question a tenth",
        prepare=start,
        start_words=start_words,
        settings={game: {"game": game}},
        chance=0.25,
        chance_words="four suits",
        answers=True,
        budgets=(30, 60, 120),
        reference_scores=(CHANCE, CEILING),
        remarks=remarks,
    )


RECIPES = {
    "repeat-previous": recipe(
        "repeat-previous",
        "POPGym RepeatPreviousMedium",
        """`PopgymRecall-v0` (evaluations/tasks/control/popgym_recall.py) with POPGym's `RepeatPreviousMedium`: two
decks are dealt card by card, and at every step the suit of the card 31 steps ago must be named. All of the newest 32
cards must be held, and nothing older.""",
        start=sinusoidal_time,
        start_words="The table of timesteps starts as sinusoids.",
        remarks="""Between two cuts the newest B slots grow to B + 48, so newest 60 answers while it has at least
96 tokens, and newest 120 always.""",
    ),
    "autoencode": recipe(
        "autoencode",
        "POPGym AutoencodeEasy",
        """`PopgymRecall-v0` (evaluations/tasks/control/popgym_recall.py) with POPGym's `AutoencodeEasy`: 52 cards are
dealt, then their suits must be named in reverse order. All cards must be held at once, the first one longest; each is
needed once.""",
        start=remembering_start,
        start_words="""Weights start as those of checkpoints/control/repeat-previous, with the rows of the table of
timesteps in another order (`remembering_start` in the recipe).""",
        remarks="""The first questions ask for cards that were dealt just before: who holds the newest 30 to 78
tokens (10 to 26 steps) answers 5 to 13 of 52, which with guesses for the others makes 0.32 to 0.44.""",
    ),
}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in RECIPES:
        sys.exit(f"expected a game, one of {', '.join(RECIPES)}; for instance: {RECIPES['autoencode'].command}")
    run(RECIPES[sys.argv.pop(1)], __doc__)
