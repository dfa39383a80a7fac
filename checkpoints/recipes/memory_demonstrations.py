"""Demonstrations of the memory tasks: scripted experts that err a little, and whom the loss follows where they did not.

An expert that never errs shows a model nothing about the states that its own errors lead to, so every demonstration
adds noise; which steps count how much in the loss is said by the task (mostly those that need memory).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from evaluations.tasks.control.d4rl import Episode


class Expert(Protocol):
    """A scripted expert: sees one observation a step, in order, and remembers what it needs."""

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """Action for the observation of one step."""


Disturbance = Callable[[np.random.Generator], Callable[[Float[np.ndarray, " action"]], Float[np.ndarray, " action"]]]
"""Draws how an episode's actions are disturbed, and gives the function that disturbs one."""


@dataclass(frozen=True)
class Demonstrations:
    """How the demonstrations of a task are made."""

    env_id: str
    """Gymnasium id."""
    draw_arguments: Callable[[np.random.Generator], dict[str, Any]]
    """Draws the environment's arguments of an episode."""
    make_expert: Callable[[dict[str, Any]], Expert]
    """A fresh expert for an environment of these arguments."""
    disturb: Disturbance
    """What is done to the expert's actions."""
    episodes: int = 3000
    """Number of episodes."""
    seed: int = 0
    """Seed of environments and disturbances."""


def demonstrate(made: Demonstrations) -> list[Episode]:
    """The episodes, the same for the same settings."""
    random = np.random.default_rng(made.seed)
    episodes = []
    for number in range(made.episodes):
        arguments = made.draw_arguments(random)
        env = gym.make(made.env_id, disable_env_checker=True, **arguments)
        expert = made.make_expert(arguments)
        state, _ = env.reset(seed=int(random.integers(2**31)))
        disturb = made.disturb(random)
        states, actions, rewards, done = [], [], [], False
        while not done:
            states.append(state)
            actions.append(disturb(expert.act(state)).astype(np.float32))
            state, reward, terminated, truncated, _ = env.step(actions[-1])
            rewards.append(reward)
            done = terminated or truncated
        env.close()
        episodes.append(
            Episode(np.stack(states), np.stack(actions), np.asarray(rewards, np.float32), state, terminated)
        )
        if (number + 1) % 500 == 0:
            print(f"demonstrated {number + 1} of {made.episodes} episodes", flush=True)
    return episodes


def shaken(deviation: float) -> Disturbance:
    """Normal noise of this standard deviation on every action, clipped to [-1, 1]."""

    def draw(random: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        return lambda action: np.clip(action + deviation * random.normal(size=action.shape), -1.0, 1.0)

    return draw


def sometimes_wrong(most: float) -> Disturbance:
    """Replaces answers by wrong ones; the share of wrong answers is drawn anew for each episode, from 0 to `most`."""

    def draw(random: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        share = random.uniform(0.0, most)

        def disturb(action: np.ndarray) -> np.ndarray:
            if not action.any() or random.random() >= share:
                return action
            return np.roll(action, int(random.integers(1, len(action))))

        return disturb

    return draw
