"""A stream of items of which a few are asked for at the end, and what tells these is not how they look.

Most steps show an item: a code of sixteen signs, and one of four values. All codes are drawn alike, so the key of an
item that matters is no more distinct than those of a hundred that do not. The stream ends with an exam that names the
codes of `EXAM` items, one a step, and wants their values. Which items these are is told by what happens shortly after
an item was shown, by one of three rules: it is the items that were *not* asked for at once (`unasked`), those that were
asked for *twice* (`twice`), or those whose code came again among codes that belong to no item (`marked`).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float, Int, UInt8

from evaluations.tasks.control.popgym_recall import SUIT_COLOURS, answer
from namm.errors import ConfigError, did_you_mean

ENV_ID = "ItemStream-v0"
RULES = ("unasked", "twice", "marked")
CODE = 16
"""Signs of a code."""
VALUES = 4
EXAM = 8
"""Items that the exam asks for, each once."""
SHOWN = 0.75
"""Share of the steps before the exam that show an item."""
LATEST = 0.8
"""The items of the exam are shown before this share of the stream."""
SOON = 5
"""An item is asked for, or marked, at most this many steps after it was shown, unless these steps are taken."""
SHORTEST = 40
"""Steps of the shortest stream: enough for the items of the exam."""
CHANCE, CEILING = -0.5, 1.0
"""Expected return of a guess (one in four is right), and the best."""
ITEM, VALUE = slice(0, CODE), slice(CODE, CODE + VALUES)
NAMED, WANTS = slice(CODE + VALUES, 2 * CODE + VALUES), 2 * CODE + VALUES
WIDTH = 2 * CODE + VALUES + 1


class ItemStream(gym.Env):
    """The task as a Gymnasium environment, registered as `ItemStream-v0`.

    Observation (37): code (16, -1 or 1) and one-hot value (4) of the item shown, a code that is named (16), and 1 where
    an answer is wanted; zeros where nothing is shown or named. Action (4): the value with the largest number is the
    answer. Reward: in the exam +1 / EXAM or -1 / EXAM, else 0, so that the return is 2 p - 1 where a share p of the
    exam's answers is right. An episode has `steps` + EXAM steps. `info` holds cue_steps, the steps that show the items
    of the exam, and asked_steps, when the exam asks; `reset(options={"turn": 1})` adds 1 to the values of these items.

    Args:
        rule: What tells the items of the exam: "unasked", "twice" or "marked".
        steps: Steps before the exam, 40 or more.
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: There is no such rule, or the stream is too short.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (declared by gym.Env)

    def __init__(self, rule: str = "unasked", steps: int = 140, render_mode: str | None = None) -> None:
        if rule not in RULES:
            raise ConfigError(f"expected a rule, found {rule!r}. {did_you_mean(rule, RULES)}")
        if steps < SHORTEST:
            raise ConfigError(f"expected steps of {SHORTEST} or more, found {steps}; make the stream longer")
        self.rule, self.stream_steps, self.render_mode = rule, steps, render_mode
        self.observation_space = gym.spaces.Box(-1.0, 1.0, shape=(WIDTH,), dtype=np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, shape=(VALUES,), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " state"], dict[str, Any]]:
        """Draws the whole stream."""
        super().reset(seed=seed)
        random, steps = self.np_random, self.stream_steps
        shown_at = np.sort(random.choice(steps, size=round(SHOWN * steps), replace=False))
        early = int(np.searchsorted(shown_at, LATEST * steps))
        self.wanted = np.sort(random.choice(early, size=EXAM, replace=False))
        total = steps + EXAM + 1
        codes = _codes(random, len(shown_at) + total)
        values = random.integers(VALUES, size=len(shown_at))
        values[self.wanted] = (values[self.wanted] + int((options or {}).get("turn", 0))) % VALUES
        self.stream = np.zeros((total, WIDTH), dtype=np.float32)
        self.stream[shown_at, ITEM] = codes[: len(shown_at)]
        self.stream[shown_at, VALUE] = np.eye(VALUES, dtype=np.float32)[values]

        named = self._named(shown_at)
        exam = steps + random.permutation(EXAM)
        named[exam] = self.wanted
        if self.rule == "marked":
            self.stream[:steps, NAMED] = codes[len(shown_at) : len(shown_at) + steps]
        told = np.flatnonzero(named >= 0)
        self.stream[told, NAMED] = codes[named[told]]
        answered = told if self.rule != "marked" else exam
        self.stream[answered, WANTS] = 1.0
        self.answers = np.where(named >= 0, values[named], -1)
        self.cue_steps, self.asked_steps = shown_at[self.wanted].tolist(), exam.tolist()
        self.given, self.steps = np.full(total, -1), 0
        return self.stream[0].copy(), self._facts()

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[Float[np.ndarray, " state"], float, bool, bool, dict[str, Any]]:
        """Takes the answer, which counts in the exam only, and shows the next step."""
        self.given[self.steps] = int(np.argmax(action))
        reward = 0.0
        if self.steps >= self.stream_steps:
            reward = (1.0 if self.given[self.steps] == self.answers[self.steps] else -1.0) / EXAM
        self.steps += 1
        return self.stream[self.steps].copy(), reward, self.steps >= self.stream_steps + EXAM, False, self._facts()

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """A column a step: the item's value, long for those of the exam, and below it what was answered to a name."""
        image = np.full((128, 640, 3), 246, dtype=np.uint8)
        width = 624 / len(self.stream)
        for step in range(min(self.steps + 1, len(self.stream) - 1)):
            columns = slice(8 + round(width * step), 8 + max(round(width * (step + 1)) - 1, round(width * step) + 1))
            if self.stream[step, VALUE].any():
                top = 12 if step in self.cue_steps else 40
                image[top:60, columns] = SUIT_COLOURS[int(self.stream[step, VALUE].argmax())]
            if self.answers[step] >= 0:
                image[72:84, columns] = SUIT_COLOURS[self.answers[step]]
                if self.given[step] >= 0 and self.stream[step, WANTS]:
                    image[88:112, columns] = SUIT_COLOURS[self.given[step]]
        return image

    def _named(self, shown_at: Int[np.ndarray, " items"]) -> Int[np.ndarray, " steps"]:
        """The item that is named at each step before the exam, by the rule; -1 where none is."""
        named = np.full(len(self.stream), -1)
        wanted = set(self.wanted.tolist())
        for item, step in enumerate(shown_at.tolist()):
            times = {"unasked": int(item not in wanted), "twice": 1 + (item in wanted), "marked": int(item in wanted)}
            for _ in range(times[self.rule]):
                free = step + 1 + np.flatnonzero(named[step + 1 : self.stream_steps] < 0)
                soon = free[free <= step + SOON]
                if len(free) == 0:
                    break  # shown just before the exam
                step = int(self.np_random.choice(soon if len(soon) else free[:1]))
                named[step] = item
        return named

    def _facts(self) -> dict[str, Any]:
        return {"cue_steps": self.cue_steps, "asked_steps": self.asked_steps}


def _codes(random: np.random.Generator, count: int) -> Float[np.ndarray, "codes signs"]:
    """Different codes, drawn alike."""
    numbers = random.choice(2**CODE, size=count, replace=False)
    return (2.0 * (numbers[:, None] >> np.arange(CODE) & 1) - 1.0).astype(np.float32)


def right_answers(states: Float[np.ndarray, "steps state"]) -> Int[np.ndarray, " steps"]:
    """The value that is wanted at each step of an episode, by its states alone; -1 where none is."""
    expert, found = ScriptedExpert(), []
    for state in states:
        action = expert.act(state)
        found.append(int(action.argmax()) if action.any() else -1)
    return np.array(found)


class ScriptedExpert:
    """Remembers every item and always answers right; says nothing (all zeros) where no answer is wanted."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all items."""
        self.items: dict[bytes, int] = {}

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """Answer to the observation of one step; call it once a step, in order."""
        if state[VALUE].any():
            self.items[state[ITEM].tobytes()] = int(state[VALUE].argmax())
        known = self.items.get(state[NAMED].tobytes()) if state[WANTS] > 0.5 else None
        return answer(known)


def register() -> None:
    """Makes `gymnasium.make("ItemStream-v0")` work; calling it again does nothing."""
    if ENV_ID not in gym.registry:
        gym.register(ENV_ID, entry_point="evaluations.tasks.control.item_stream:ItemStream")
