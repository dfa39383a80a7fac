"""A continuous T-maze that needs one bit of memory, or a vote over a few, for as long as the corridor is.

A point mass is driven down a corridor. On ONE step, at a random time in its early part, a cue of +1 or -1 is seen;
before and after it, pulses of the same size appear on a second channel and mean nothing. At the junction the agent must
turn into the arm that the cue named. The scripted expert walks identically for both cues until the junction, so neither
position, velocity nor action carries the bit: it is seen in one token, neither among the first nor the newest, and a
memory that loses it scores 0.5. With several cues the arm is that of the majority, which wins by one: every cue counts.
Positions are seen relative to the junction and only from nearby, so corridors of any length look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float, UInt8

from namm.errors import ConfigError

ENV_ID = "ContinuousTMaze-v0"

MAX_SPEED = 0.1
"""Metres a step at full throttle."""
RESPONSE = 0.3
"""Share of the commanded velocity taken up in one step (the rest is momentum)."""
CRUISE = 0.8
"""The expert's throttle; fixes what a corridor of N steps measures in metres."""
HALF_WIDTH = 0.2
"""Half the width of the corridor, metres."""
JUNCTION_DEPTH = 0.4
"""Depth of the arms, metres."""
ARM_LENGTH = 0.8
"""Distance from the middle of the corridor to the end of an arm, metres."""
SIGHT = 1.0
"""The junction is seen from this far, metres."""
SLACK_STEPS = 40
"""Steps beyond the corridor after which an episode is cut off."""
STATE_NAMES = ("distance_to_junction", "y", "x_velocity", "y_velocity", "cue", "distractor")


class ContinuousTMaze(gym.Env):
    """The T-maze as a Gymnasium environment, registered as `ContinuousTMaze-v0`.

    Observation (6): distance to the junction (m, at most 1), y (m), x and y velocity (per `MAX_SPEED`), cue (-1, 0, 1),
    distractor (-1, 0, 1). Action (2): commanded x and y velocity in [-1, 1]. Reward: 1 on entering the end of the cued
    arm, else 0. An episode ends at the end of either arm, and is truncated `SLACK_STEPS` after the corridor's length.
    `info` holds success (the cued arm was reached), cue (the arm, -1 or 1), cue_steps (when cues are shown) and
    cue_step (the first of them); `reset(options={"cue": 1})` fixes the arm.

    Args:
        corridor_steps: Length of the corridor in steps of the expert, 50 to 300.
        cue_range: Cues are shown on different, uniformly drawn steps between these fractions of the corridor.
        distractor_rate: Distractor pulses per step of the corridor, on average exactly this many.
        render_mode: None or "rgb_array".
        cues: Number of cues, odd. The cued arm is that of all but (cues - 1) / 2 of them.

    Raises:
        ConfigError: The corridor is not 50 to 300 steps long, the range of the cue is not inside (0, 1), or the number
            of cues is even, or more than there are steps to show them.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012  (declared by gym.Env)

    def __init__(
        self,
        corridor_steps: int = 150,
        cue_range: tuple[float, float] = (0.1, 0.4),
        distractor_rate: float = 1 / 12,
        render_mode: str | None = None,
        cues: int = 1,
    ) -> None:
        if not 50 <= corridor_steps <= 300:
            raise ConfigError(f"expected corridor_steps of 50 to 300, found {corridor_steps}; choose a length in there")
        if not 0 < cue_range[0] < cue_range[1] < 1:
            raise ConfigError(f"expected 0 < cue_range[0] < cue_range[1] < 1, found {cue_range}; choose fractions")
        self._first, self._last = (round(fraction * corridor_steps) for fraction in cue_range)
        if cues < 1 or cues % 2 == 0 or cues > self._last - self._first + 1:
            raise ConfigError(
                f"expected an odd number of cues that fit on steps {self._first} to {self._last}, found {cues}; choose "
                "1, 3 or 5"
            )
        self.corridor_steps, self.cue_range, self.distractor_rate = corridor_steps, cue_range, distractor_rate
        self.render_mode, self.cues = render_mode, cues
        self.length = corridor_steps * CRUISE * MAX_SPEED
        low = np.array([-JUNCTION_DEPTH, -ARM_LENGTH, -1, -1, -1, -1], dtype=np.float32)
        high = np.array([SIGHT, ARM_LENGTH, 1, 1, 1, 1], dtype=np.float32)
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, " state"], dict[str, Any]]:
        """Starts a new episode; everything random in it is drawn here."""
        super().reset(seed=seed)
        random = self.np_random
        drawn_cue = 1 if random.random() < 0.5 else -1
        self.cue = int((options or {}).get("cue", drawn_cue))
        self.shown_cues = self._draw_cues()
        others = np.delete(np.arange(self.corridor_steps), list(self.shown_cues))
        pulses = round(self.distractor_rate * self.corridor_steps)
        self.distractors = np.zeros(self.corridor_steps + SLACK_STEPS + 1)
        self.distractors[random.choice(others, size=pulses, replace=False)] = random.choice([-1.0, 1.0], size=pulses)
        self.x, self.y = 0.0, float(random.uniform(-0.5, 0.5) * HALF_WIDTH)
        self.vx, self.vy = 0.0, 0.0
        self.steps = 0
        return self._observation(), self._info(success=False)

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[Float[np.ndarray, " state"], float, bool, bool, dict[str, Any]]:
        """Moves the point mass by one step; walls stop it."""
        throttle = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self.vx += RESPONSE * (float(throttle[0]) - self.vx)
        self.vy += RESPONSE * (float(throttle[1]) - self.vy)
        x, y = self.x + MAX_SPEED * self.vx, self.y + MAX_SPEED * self.vy

        inside_arm = abs(self.y) > HALF_WIDTH
        nearest = self.length if inside_arm else 0.0
        x_free = float(np.clip(x, nearest, self.length + JUNCTION_DEPTH))
        reach = ARM_LENGTH if x_free >= self.length else HALF_WIDTH
        y_free = float(np.clip(y, -reach, reach))
        self.vx = self.vx if x_free == x else 0.0
        self.vy = self.vy if y_free == y else 0.0
        self.x, self.y = x_free, y_free
        self.steps += 1

        terminated = abs(self.y) >= ARM_LENGTH
        success = terminated and np.sign(self.y) == self.cue
        truncated = not terminated and self.steps >= self.corridor_steps + SLACK_STEPS
        return self._observation(), float(success), terminated, truncated, self._info(bool(success))

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """A top view of the maze: walls grey, cue and distractor as lamps above, the agent blue."""
        width, height, margin = 640, 128, 8
        image = np.full((height, width, 3), 70, dtype=np.uint8)
        scale = (width - 2 * margin) / (self.length + JUNCTION_DEPTH)
        y_scale = (height - 2 * margin) / (2 * ARM_LENGTH)

        def fill(x0: float, x1: float, y0: float, y1: float, colour: tuple[int, int, int]) -> None:
            columns = slice(max(0, int(margin + x0 * scale)), max(1, int(margin + x1 * scale) + 1))
            rows = slice(max(0, int(height / 2 - y1 * y_scale)), max(1, int(height / 2 - y0 * y_scale) + 1))  # y is up
            image[rows, columns] = colour

        fill(0.0, self.length, -HALF_WIDTH, HALF_WIDTH, (235, 235, 235))
        fill(self.length, self.length + JUNCTION_DEPTH, -ARM_LENGTH, ARM_LENGTH, (235, 235, 235))
        goal = self.cue * ARM_LENGTH
        fill(self.length, self.length + JUNCTION_DEPTH, min(goal, goal * 0.8), max(goal, goal * 0.8), (140, 210, 140))
        for lamp, value in enumerate((self._cue_now(), self._distractor_now())):
            colour = {0: (110, 110, 110), 1: (250, 200, 40), -1: (200, 60, 160)}[int(value)]
            image[12:28, 12 + 28 * lamp : 32 + 28 * lamp] = colour
        half = 4 / scale, 4 / y_scale
        fill(self.x - half[0], self.x + half[0], self.y - half[1], self.y + half[1], (30, 90, 220))
        return image

    def _draw_cues(self) -> dict[int, int]:
        """The cues by the step that shows them, in order of time."""
        random = self.np_random
        if self.cues == 1:
            return {int(random.integers(self._first, self._last + 1)): self.cue}
        steps = np.sort(random.choice(np.arange(self._first, self._last + 1), size=self.cues, replace=False))
        against = random.permutation(self.cues) < self.cues // 2  # the majority wins by one
        signs = np.where(against, -self.cue, self.cue)
        return dict(zip(steps.tolist(), signs.tolist(), strict=True))

    def _cue_now(self) -> float:
        return float(self.shown_cues.get(self.steps, 0))

    def _distractor_now(self) -> float:
        return float(self.distractors[self.steps])

    def _observation(self) -> Float[np.ndarray, " state"]:
        ahead = min(self.length - self.x, SIGHT)
        values = [ahead, self.y, self.vx, self.vy, self._cue_now(), self._distractor_now()]
        return np.asarray(values, dtype=np.float32)

    def _info(self, success: bool) -> dict[str, Any]:
        steps = list(self.shown_cues)
        return {"success": success, "cue": self.cue, "cue_step": steps[0], "cue_steps": steps}


class ScriptedExpert:
    """Walks to the junction along the middle, counts the cues it has seen, and turns into the arm of the majority.

    Its action depends on the cues only once the junction is reached. It has seen no cue: it turns to +1.
    """

    def __init__(self) -> None:
        self.balance = 0

    def reset(self) -> None:
        """Forgets all cues."""
        self.balance = 0

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """Action in [-1, 1] for the observation of one step; call it once a step, in order."""
        ahead, y, _, _, cue, _ = (float(value) for value in state)
        self.balance += round(cue)
        if ahead > 0:
            return np.array([CRUISE, np.clip(-2.0 * y, -1, 1)], dtype=np.float32)
        turn = CRUISE if self.balance >= 0 else -CRUISE
        return np.array([np.clip(4.0 * (ahead + 0.5 * JUNCTION_DEPTH), -1, 1), turn], dtype=np.float32)


def memory_steps(states: Float[np.ndarray, "steps state"], info: Mapping[str, Any]) -> list[int]:
    """Steps from each cue to the arrival at the junction, in one episode."""
    arrival = int(np.flatnonzero(states[:, 0] <= 0)[0])
    return [arrival - step for step in info["cue_steps"]]


def register() -> None:
    """Makes `gymnasium.make("ContinuousTMaze-v0")` work; calling it again does nothing."""
    if ENV_ID not in gym.registry:
        gym.register(ENV_ID, entry_point="evaluations.tasks.control.tmaze:ContinuousTMaze")
