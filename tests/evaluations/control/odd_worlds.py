"""Environments with the habits of other people's: odd ways to tell of success, to draw, to break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from tests.evaluations.control.tiny_control import tiny_decision_transformer

STEPS = 8


class OddWorld(gym.Env):
    """Eight steps of reward 1. Episodes with an even reset seed reach the goal in the third step.

    Args:
        key: What the success is called in `info`.
        tells: "once" (in the step that reaches the goal only), "then_false" (always, and False again afterwards),
            "never".
        yes: The value that means success.
        wrong: What is not finite: "reward", "state" or nothing.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (6,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, key: str = "success", tells: str = "once", yes: Any = True, wrong: str = "") -> None:
        self.key, self.tells, self.yes, self.wrong = key, tells, yes, wrong

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.step_number, self.reaches = 0, seed is not None and seed % 2 == 0
        return np.zeros(6, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.step_number += 1
        now = self.reaches and self.step_number == 3
        info: dict[str, Any] = {}
        if self.tells == "then_false":
            info[self.key] = self.yes if now else type(self.yes)(0)
        elif now and self.tells == "once":
            info[self.key] = self.yes
        state = np.full(6, 0.1 * self.step_number, np.float32)
        reward = 1.0
        if self.step_number == 4 and self.wrong:
            state, reward = (state * np.nan, reward) if self.wrong == "state" else (state, float("nan"))
        return state, reward, False, self.step_number == STEPS, info


class DrawsOddly(OddWorld):
    """Has a render mode, and `render` does as it is told: "raises", "nothing", "grey", "text"."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None, draws: str = "raises", **options: Any) -> None:
        super().__init__(**options)
        self.render_mode, self.draws = render_mode, draws

    def render(self) -> Any:
        if self.draws == "raises":
            raise RuntimeError("an OpenGL platform library has not been loaded\nmore of the same")
        return {"nothing": None, "grey": np.zeros((4, 4)), "text": "a maze"}[self.draws]


class NeedsDisplay(DrawsOddly):
    """Cannot even be made with a render mode where there is no display."""

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        if render_mode is not None:
            raise ImportError("libGL.so.1: cannot open shared object file")
        super().__init__(render_mode, **options)


def register() -> None:
    """Registers them by name, so that simulator processes can make them too."""
    for name in ("OddWorld", "DrawsOddly", "NeedsDisplay"):
        if f"{name}-v0" not in gym.registry:
            entry = f"tests.evaluations.control.odd_worlds:{name}"
            gym.register(f"{name}-v0", entry_point=entry, disable_env_checker=True)


def odd_checkpoint(folder: Path, world: str = "OddWorld", **facts: Any) -> Path:
    """A small agent for one of them."""
    register()
    tiny_decision_transformer(folder, "ContinuousTMaze-v0", **facts)
    path = folder / "control.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "env_id": f"{world}-v0"}))
    return folder
