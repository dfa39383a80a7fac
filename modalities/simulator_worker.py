"""Environments that are stepped one after the other, in this process or in a worker that is told over a connection.

As a worker (`python simulator_worker.py FILE_DESCRIPTOR`) this file is run and not imported: it loads Gymnasium and no
torch, so a worker starts in half a second. It answers messages in order and ends when its connection does, so it can
outlive the process that started it by one step at most.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np


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

    def __init__(self, make: Callable[[int], gym.Env], episodes: Sequence[int]) -> None:
        self.open: dict[int, gym.Env] = {}
        try:
            for episode in episodes:
                self.open[episode] = make(episode)
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Starts every episode; states as float32 [episodes, state], and what each reset tells."""
        states, infos = [], []
        for (episode, env), seed in zip(self.open.items(), seeds, strict=True):
            with _blaming(episode):
                state, info = env.reset(seed=int(seed))
            states.append(state)
            infos.append(info)
        return np.stack(states).astype(np.float32), infos

    def step(
        self, episodes: Sequence[int], actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bool | None]]:
        """Steps these episodes, each by its row of the actions; gives the fields of `simulators.Stepped`."""
        states, rewards, ended, successes = [], np.zeros(len(episodes)), np.zeros(len(episodes), dtype=bool), []
        for row, episode in enumerate(episodes):
            with _blaming(episode):
                state, reward, terminated, truncated, info = self.open[episode].step(actions[row])
            states.append(state)
            rewards[row], ended[row] = float(reward), terminated or truncated
            successes.append(bool(info["success"]) if "success" in info else None)
        return np.stack(states).astype(np.float32), rewards, ended, successes

    def close(self) -> None:
        """Closes all of them."""
        for env in self.open.values():
            env.close()
        self.open.clear()


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
