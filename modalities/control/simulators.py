"""The simulators of a rollout: one environment an episode, stepped when the rollout asks.

A rollout may send the actions of one part of its batch before it has received the states of another. Stepped in this
process that changes nothing; with the worker processes of `simulator_pool` it is how model and simulators overlap.
"""

from __future__ import annotations

import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, UInt8

from modalities.control.worker import Environments, EpisodeFailedError
from namm.errors import ConfigError, SimulatorError, UnknownNameError, did_you_mean


def make_env(env_id: str, env_kwargs: dict[str, Any] | None = None, render: bool = False) -> Any:
    """A Gymnasium environment; observations that are dictionaries are flattened to vectors, keys in the space's order.

    Raises:
        UnknownNameError: The id is not registered.
        ConfigError: The environment does not accept its arguments, needs a package, or cannot draw pictures here.
    """
    if render and "DISPLAY" not in os.environ and sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is first imported; without a display there is no X
    try:
        with warnings.catch_warnings():  # D4RL's agents belong on v4, which Gymnasium advises to leave
            warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
            drawn: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
            env = gym.make(env_id, **(env_kwargs or {}), **drawn)
    except (gym.error.UnregisteredEnv, gym.error.VersionNotFound, gym.error.DeprecatedEnv) as error:
        raise UnknownNameError(f"unknown environment {env_id!r}. {did_you_mean(env_id, _same_kind(env_id))}") from error
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise ConfigError(
            f"expected the package that {env_id} needs, found none ({error}); install it, or choose another version "
            "(D4RL's v2 and v3 robots live on as v4)"
        ) from error
    except TypeError as error:
        raise ConfigError(f"expected arguments that {env_id} knows, found {env_kwargs}: {error}") from error
    return gym.wrappers.FlattenObservation(env) if isinstance(env.observation_space, gym.spaces.Dict) else env


def _same_kind(env_id: str) -> list[str]:
    """Registered ids worth naming in an error message: continuous control, memory tasks, and whatever looks alike."""
    import difflib

    usual = (
        "Hopper-v",
        "HalfCheetah-v",
        "Walker2d-v",
        "Ant-v",
        "ContinuousTMaze-v",
        "RememberedReacher-v",
        "PopgymRecall-v",
    )
    known = {name for name in gym.registry if name.startswith(usual)}
    return sorted(known | set(difflib.get_close_matches(env_id, list(gym.registry), n=3)))


@dataclass(frozen=True)
class Stepped:
    """What one step did to some episodes, in their order."""

    states: Float[np.ndarray, "episodes state"]
    """Where they are now."""
    rewards: Float[np.ndarray, " episodes"]
    """What the step earned."""
    ended: Bool[np.ndarray, " episodes"]
    """Terminated or truncated."""
    successes: list[bool | None]
    """What `info` says of success at this step; None where it does not say."""


class Simulators(ABC):
    """The environments of one rollout.

    Attributes:
        actions: The environments' space of actions.
    """

    actions: Any

    def __init__(self, env_id: str, seeds: Sequence[int]) -> None:
        self.env_id, self.seeds = env_id, [int(seed) for seed in seeds]

    @abstractmethod
    def reset(self) -> tuple[Float[np.ndarray, "episodes state"], list[dict[str, Any]]]:
        """Starts all episodes; their states, and what each reset tells."""

    @abstractmethod
    def send(self, episodes: Sequence[int], actions: Float[np.ndarray, "episodes action"]) -> None:
        """Has these episodes stepped."""

    @abstractmethod
    def receive(self) -> Stepped:
        """What came of the oldest `send` that has not been received."""

    @abstractmethod
    def close(self) -> None:
        """Closes the environments; steps that were sent and not received are given up."""

    def _failure(self, episode: int, reason: str) -> SimulatorError:
        return SimulatorError(
            f"Expected {self.env_id} to go on, found that it raised in the episode with reset seed "
            f"{self.seeds[episode]}: {reason}. Mend the environment or leave that seed out."
        )


class LocalSimulators(Simulators):
    """Stepped in this process, at the moment they are received.

    Args:
        env_id: Gymnasium id.
        env_kwargs: Arguments of the environment.
        seeds: Reset seeds, one an episode.
        render: Make episode 0 able to draw itself.
    """

    def __init__(
        self, env_id: str, env_kwargs: dict[str, Any] | None, seeds: Sequence[int], render: bool = False
    ) -> None:
        super().__init__(env_id, seeds)
        self.sent: deque[tuple[Sequence[int], np.ndarray]] = deque()
        self.environments = Environments(
            lambda episode: make_env(env_id, env_kwargs, render=render and episode == 0), range(len(seeds))
        )
        self.actions = self.environments.open[0].action_space

    def reset(self) -> tuple[Float[np.ndarray, "episodes state"], list[dict[str, Any]]]:
        """See Simulators."""
        try:
            return self.environments.reset(self.seeds)
        except EpisodeFailedError as error:
            raise self._failure(error.episode, error.reason) from error

    def send(self, episodes: Sequence[int], actions: Float[np.ndarray, "episodes action"]) -> None:
        """See Simulators."""
        self.sent.append((episodes, actions))

    def receive(self) -> Stepped:
        """See Simulators."""
        try:
            return Stepped(*self.environments.step(*self.sent.popleft()))
        except EpisodeFailedError as error:
            raise self._failure(error.episode, error.reason) from error

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """What episode 0 looks like now, where it was made to be drawn."""
        picture = self.environments.open[0].render()
        if not isinstance(picture, np.ndarray):
            raise SimulatorError(
                f"Expected a picture of {self.env_id} as an array, found {type(picture).__name__}. Give the "
                "environment the render mode rgb_array, or do not ask for pictures."
            )
        return picture

    def close(self) -> None:
        """See Simulators."""
        self.environments.close()
