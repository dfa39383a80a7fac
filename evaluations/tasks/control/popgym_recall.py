"""Two recall games of POPGym (Morad et al., ICLR 2023; `popgym` on PyPI), in the form a Decision Transformer needs.

POPGym's own environments run unchanged; only the interface is turned: an observation becomes its one-hot vector, and
the answer is the largest of four continuous outputs. `RepeatPreviousMedium` asks at every step for the suit that was
dealt 32 cards ago (itself counted), so each card must be held for 31 steps; `AutoencodeEasy` shows 52 cards and then
asks for all of them, the last one first. No answer says what will be asked next, so the agent's own actions, which it
sees, give nothing away. (In `RepeatFirst` the right answer never changes, and the newest action is enough.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
from jaxtyping import Float, UInt8

from namm.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from popgym.envs.repeat_previous import RepeatPrevious

ENV_ID = "PopgymRecall-v0"
GAMES = {"repeat-previous": "popgym-RepeatPreviousMedium-v0", "autoencode": "popgym-AutoencodeEasy-v0"}
"""POPGym's id of each game."""
SUITS = 4
DELAY = 31
"""Steps between a card and the question for it in `RepeatPreviousMedium`."""
CARDS = 52
"""Cards in `AutoencodeEasy`."""
CHANCE, CEILING = -0.5, 1.0
"""Exact expected return without memory (one answer in four is right, +1 and -1 shared out over all), and the best."""
SUIT_COLOURS = ((45, 50, 56), (200, 60, 60), (40, 130, 80), (40, 90, 200))


class PopgymRecall(gym.Env):
    """A POPGym game with a vector as state and four numbers as action, registered as `PopgymRecall-v0`.

    Observation: one-hot suit (4); in `autoencode` after a one-hot phase (2: playing, watching). Action (4): the suit
    with the largest number is the answer. Reward: +1 or -1 over the number of questions, so that the return is 2 p - 1
    where a share p of the answers is right. `info` holds cue_steps, the steps whose cards are asked for, and
    asked_steps, when.

    Args:
        game: "repeat-previous" or "autoencode".
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: There is no such game, or popgym is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (declared by gym.Env)

    def __init__(self, game: str = "repeat-previous", render_mode: str | None = None) -> None:
        if game not in GAMES:
            raise ConfigError(f"expected a recall game, found {game!r}. {did_you_mean(game, GAMES)}")
        try:
            import popgym  # noqa: F401  (registers its environments)
        except ImportError as error:
            raise ConfigError("the recall games need popgym; install it with `pip install popgym`") from error
        self.game, self.render_mode = game, render_mode
        self.inner = gym.make(GAMES[game], disable_env_checker=True)
        self.inner_space = self.inner.observation_space
        width = gym.spaces.flatdim(self.inner_space)
        self.observation_space = gym.spaces.Box(0.0, 1.0, shape=(width,), dtype=np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, shape=(SUITS,), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " state"], dict[str, Any]]:
        """Shuffles and deals the first card."""
        super().reset(seed=seed)
        observed, _ = self.inner.reset(seed=seed if seed is not None else int(self.np_random.integers(2**31)))
        if self.game == "repeat-previous":
            cards = cast("RepeatPrevious", self.inner.unwrapped).deck.num_cards  # what GAMES makes of this name
            last = cards - 2  # the card after the last question is dealt for nothing
            self.asked = {step - DELAY: step for step in range(DELAY, last + 1)}
        else:
            self.asked = {card: 2 * (CARDS - 1) - card for card in range(CARDS)}
        self.history, self.answers = [observed], []
        return self._vector(observed), self._facts()

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[Float[np.ndarray, " state"], float, bool, bool, dict[str, Any]]:
        """Gives the answer and deals on."""
        self.answers.append(int(np.argmax(action)))
        observed, reward, terminated, truncated, _ = self.inner.step(self.answers[-1])
        self.history.append(observed)
        return self._vector(observed), float(reward), terminated, truncated, self._facts()

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """All cards so far as coloured columns, and below each card the answer to the question for it."""
        image = np.full((128, 640, 3), 246, dtype=np.uint8)
        for step, observed in enumerate(self.history):
            suit = int(observed[1] if isinstance(observed, tuple) else observed)
            image[24:64, 8 + 4 * step : 11 + 4 * step] = SUIT_COLOURS[suit]
        for card, step in self.asked.items():
            if step < len(self.answers):
                image[72:104, 8 + 4 * card : 11 + 4 * card] = SUIT_COLOURS[self.answers[step]]
        return image

    def close(self) -> None:
        """Closes POPGym's environment."""
        self.inner.close()

    def _facts(self) -> dict[str, Any]:
        return {"cue_steps": list(self.asked), "asked_steps": list(self.asked.values())}

    def _vector(self, observed: Any) -> Float[np.ndarray, " state"]:
        return np.asarray(gym.spaces.flatten(self.inner_space, observed), dtype=np.float32)


class ScriptedExpert:
    """Remembers every card and always answers right; says nothing (all zeros) while nothing is asked.

    Args:
        game: As in `PopgymRecall`.
    """

    def __init__(self, game: str) -> None:
        self.game = game
        self.reset()

    def reset(self) -> None:
        """Forgets all cards."""
        self.cards: list[int] = []
        self.playing = False

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """Answer to the observation of one step; call it once a step, in order."""
        suit = int(np.argmax(state[-SUITS:]))
        if self.game == "repeat-previous":
            self.cards.append(suit)
            return answer(self.cards[-1 - DELAY]) if len(self.cards) > DELAY else answer(None)
        if not self.playing:  # the last card is dealt together with the change to playing
            self.cards.append(suit)
            self.playing = bool(state[0] > 0.5)
        return answer(self.cards.pop()) if self.playing else answer(None)


def answer(suit: int | None) -> Float[np.ndarray, " action"]:
    """The action that names a suit: 1 for it and -1 for the others; zeros for no suit."""
    if suit is None:
        return np.zeros(SUITS, dtype=np.float32)
    return np.where(np.arange(SUITS) == suit, 1.0, -1.0).astype(np.float32)


def register() -> None:
    """Makes `gymnasium.make("PopgymRecall-v0")` work; calling it again does nothing."""
    if ENV_ID not in gym.registry:
        gym.register(ENV_ID, entry_point="evaluations.tasks.control.popgym_recall:PopgymRecall")
