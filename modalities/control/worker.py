"""Environments that are stepped one after the other, in this process or in a worker that is told over a connection.

Gymnasium's hopper, half-cheetah and walker spend a quarter of a step in Python around MuJoCo. Where they are exactly as
Gymnasium made them, each is stepped with MuJoCo's own call and the arithmetic around it is done for all at once,
in the same order and types: bit for bit what their `step` gives.

As a worker (`python simulator_worker.py FILE_DESCRIPTOR`) this file is run and not imported: it loads Gymnasium and no
torch, so a worker starts in half a second. It answers messages in order and ends when its connection does, so it can
outlive the process that started it by one step at most.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

Env = gym.Env[Any, Any]
Wrapper = gym.Wrapper[Any, Any, Any, Any]
STOCK = {
    f"gymnasium.envs.mujoco.{robot}_v{version}.{name}": (robot, version)
    for robot, name in (("hopper", "HopperEnv"), ("half_cheetah", "HalfCheetahEnv"), ("walker2d", "Walker2dEnv"))
    for version in (4, 5)
}
"""Environments whose step is known here, by the full name of their class."""


class EpisodeFailedError(Exception):
    """An environment raised: which episode's, and what."""

    def __init__(self, episode: int, reason: str) -> None:
        super().__init__(episode, reason)
        self.episode, self.reason = episode, reason


class Environments:
    """One environment for each of some episodes.

    Args:
        make: Makes the environment of an episode.
        episodes: Which ones, as indices into the seeds of a rollout.
    """

    def __init__(self, make: Callable[[int], Env], episodes: Sequence[int]) -> None:
        self.open: dict[int, Env] = {}
        try:
            for episode in episodes:
                self.open[episode] = make(episode)
        except BaseException:
            self.close()
            raise
        self.robots = StockRobots(self.open) if StockRobots.know(self.open.values()) else None

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Starts every episode; states as float32 [episodes, state], and what each reset tells."""
        states, infos = [], []
        for (episode, env), seed in zip(self.open.items(), seeds, strict=True):
            with _blaming(episode):
                state, info = env.reset(seed=int(seed))
            states.append(state)
            infos.append(info)
        if self.robots is not None:
            self.robots.elapsed = dict.fromkeys(self.open, 0)
        return np.stack(states).astype(np.float32), infos

    def step(
        self, episodes: Sequence[int], actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bool | None]]:
        """Steps these episodes, each by its row of the actions; gives the fields of `simulators.Stepped`."""
        if self.robots is not None:
            return self.robots.step(episodes, actions)
        states, rewards, ended, successes = [], np.zeros(len(episodes)), np.zeros(len(episodes), dtype=bool), []
        for row, episode in enumerate(episodes):
            with _blaming(episode):
                state, reward, terminated, truncated, info = self.open[episode].step(actions[row])
            states.append(state)
            rewards[row], ended[row] = float(reward), terminated or truncated
            successes.append(said_success(info))
        return np.stack(states).astype(np.float32), rewards, ended, successes

    def close(self) -> None:
        """Closes all of them."""
        for env in self.open.values():
            env.close()
        self.open.clear()


class StockRobots:
    """Gymnasium's own robots, stepped without its Python; `elapsed` counts each one's steps since its reset.

    Args:
        environments: One an episode, all made alike; see `know`.
    """

    def __init__(self, environments: Mapping[int, Env]) -> None:
        # Any: of the classes in STOCK, whose step is done here from attributes that they keep to themselves
        self.inner: dict[int, Any] = {episode: env.unwrapped for episode, env in environments.items()}
        self.elapsed = dict.fromkeys(environments, 0)
        self.one: Any = next(iter(self.inner.values()))
        self.robot, self.version = STOCK[_full_name(self.one)]
        limits = [
            wrapper._max_episode_steps
            for wrapper in _wrappers(next(iter(environments.values())))
            if type(wrapper) is TimeLimit
        ]
        self.limit = min(limits, default=None)
        # the arrays are MuJoCo's own memory, so these views follow the simulation
        self.views = {
            e: (inner.data, inner.data.ctrl, inner.data.qpos, inner.data.qvel) for e, inner in self.inner.items()
        }

    @staticmethod
    def know(environments: Iterable[Env]) -> bool:
        """True where every environment is a known class in Gymnasium's usual wrappers, and nothing is drawn."""
        usual = TimeLimit, OrderEnforcing, PassiveEnvChecker
        return all(
            _full_name(env.unwrapped) in STOCK
            and "step" not in vars(env.unwrapped)
            and env.render_mode != "human"
            and all(type(wrapper) in usual for wrapper in _wrappers(env))
            for env in environments
        )

    def step(
        self, episodes: Sequence[int], actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bool | None]]:
        """See `Environments.step`."""
        from mujoco import mj_step  # pyright: ignore[reportAttributeAccessIssue]  (compiled, without stubs)

        one, count = self.one, len(episodes)
        positions, velocities = np.empty((count, one.model.nq)), np.empty((count, one.model.nv))
        before, over = np.empty(count), np.zeros(count, dtype=bool)
        if actions.shape[1:] != (one.model.nu,):
            raise EpisodeFailedError(episodes[0], f"an action of {actions.shape[1:]}, expected ({one.model.nu},)")
        for row, episode in enumerate(episodes):
            data, control, position, velocity = self.views[episode]
            before[row] = position[0]
            control[:] = actions[row]
            try:
                mj_step(one.model, data, one.frame_skip)
            except Exception as error:
                raise EpisodeFailedError(episode, f"{type(error).__name__}: {error}") from error
            positions[row], velocities[row] = position, velocity
            self.elapsed[episode] += 1
            over[row] = self.elapsed[episode] == self.limit
        rewards = one._forward_reward_weight * ((positions[:, 0] - before) / one.dt)
        cost = one._ctrl_cost_weight * np.sum(np.square(actions), axis=1)
        seen = velocities
        if self.robot != "half_cheetah":
            healthy = self._healthy(positions, velocities)
            counted = healthy | one._terminate_when_unhealthy if self.version == 4 else healthy
            rewards = rewards + counted * one._healthy_reward
            over |= ~healthy & one._terminate_when_unhealthy
            seen = np.clip(velocities, -10, 10)
        first = 1 if one._exclude_current_positions_from_observation else 0
        states = np.concatenate([positions[:, first:], seen], axis=1).astype(np.float32)
        return states, rewards - cost, over, [None] * count

    def _healthy(self, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        one = self.one
        height, angle = positions[:, 1], positions[:, 2]
        fine = (one._healthy_z_range[0] < height) & (height < one._healthy_z_range[1])
        fine &= (one._healthy_angle_range[0] < angle) & (angle < one._healthy_angle_range[1])
        if self.robot == "hopper":
            low, high = one._healthy_state_range
            rest = np.concatenate([positions, velocities], axis=1)[:, 2:]
            fine &= np.all((low < rest) & (rest < high), axis=1)
        return fine


def said_success(info: Mapping[str, Any]) -> bool | None:
    """Whether an `info` says that the goal is reached, under either of the names in use; None where it does not say."""
    said = None
    for name in ("success", "is_success"):
        value = np.asarray(info.get(name))
        if value.size == 1 and value.dtype.kind in "biuf" and not np.isnan(value.astype(float)).any():
            said = bool(said) or bool(value.item())
    return said


def _wrappers(env: Env) -> Iterator[Wrapper]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def _full_name(env: Env) -> str:
    return f"{type(env).__module__}.{type(env).__qualname__}"


@contextmanager
def _blaming(episode: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EpisodeFailedError(episode, f"{type(error).__name__}: {error}") from error


def serve(connection: Connection) -> None:
    """Answers `(name, arguments)` with `(True, result)` or `(False, episode or None, reason)` while there is anyone."""
    environments: Environments | None = None
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        except Exception as error:  # something in the message exists in the sender's process only
            connection.send((False, None, f"{type(error).__name__}: {error}"))
            continue
        try:
            if name == "open":
                specification, episodes = arguments
                environments = Environments(lambda _: gym.make(specification), episodes)  # noqa: B023
                answer: tuple[Any, ...] = (True, None)
            else:
                answer = (True, getattr(environments, name)(*arguments))
        except EpisodeFailedError as error:
            answer = (False, error.episode, error.reason)
        except Exception as error:
            answer = (False, None, f"{type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except OSError:
            return


def main() -> None:
    """Serves the connection whose file descriptor is the argument; the first message is the module search path."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted rollout closes its workers itself
    gym.logger.min_level = gym.logger.ERROR  # the rollout's own process has warned already
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, OSError):
        sys.path[:] = connection.recv()
        serve(connection)


if __name__ == "__main__":
    main()
