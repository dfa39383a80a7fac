"""An environment that fails on purpose, in a module that loads in a moment: simulator processes import it."""

from __future__ import annotations

import os
import signal

import gymnasium as gym
import numpy as np


class FragileEnv(gym.Env):
    """Counts its steps; an episode of seed 13 raises at its third, and one of seed 66 kills its process there."""

    observation_space = gym.spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, shape=(3,), dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps = seed, 0
        return np.zeros(2, np.float32), {"cue_steps": [1, seed]}

    def step(self, action):
        self.steps += 1
        if self.steps == 3 and self.seed == 13:
            raise ValueError("the joint broke")
        if self.steps == 3 and self.seed == 66:
            os.kill(os.getpid(), signal.SIGKILL)
        return (
            np.full(2, self.steps / 99, np.float32),
            1.0,
            self.steps == self.seed,
            False,
            {"success": self.seed % 2 == 0},
        )
