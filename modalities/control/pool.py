"""Worker processes that step the environments of rollouts, while the rollout's own process runs the model.

Gymnasium's `AsyncVectorEnv` has one process an environment, steps all of them in lock-step and cannot leave out the
finished ones, which suits neither 64 environments on two cores nor a batch that shrinks. Here each worker steps a share
of the environments one after the other, told by messages of a few kilobytes. Who steps an environment changes nothing
in what it does. A worker is a fresh interpreter (never a fork of one that runs torch's threads) and ends when its
connection does, so none outlives its rollout's process, whatever stops that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float

from modalities.control import worker as simulator_worker
from modalities.control.simulators import LocalSimulators, Simulators, Stepped, make_env
from namm.errors import ConfigError, SimulatorError

EPISODES_PER_WORKER = 16
"""A worker steps at least as many where the number is chosen here: fewer are not worth a process."""
CLOSING_SECONDS = 5.0
"""Time a worker has to close its environments before it is killed."""


class SimulatorPool:
    """Workers that one rollout after the other may use; they start when they are first needed.

    Use it in a `with` block, or call `close`.

    Args:
        workers: How many. 0 steps every environment in this process; None decides for each rollout: as many as there
            are cores beside the model's, but none for few episodes or for an environment that only this process knows.

    Raises:
        ConfigError: A negative number, or workers on a system without POSIX file descriptors.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 0:
            raise ConfigError(f"expected 0 or more simulator processes, found {workers}")
        if workers and os.name != "posix":
            raise ConfigError(f"simulator processes need a POSIX system, found {os.name}; use 0")
        self.workers = workers
        self._started: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _end, self._started)

    def simulators(self, env_id: str, env_kwargs: dict[str, Any] | None, seeds: Sequence[int]) -> Simulators:
        """Environments for one rollout, which closes them when it is over.

        Raises:
            UnknownNameError: The environment is not registered.
            ConfigError: It does not accept its arguments, or only this process could make it.
            SimulatorError: A worker cannot make it.
        """
        probe = make_env(env_id, env_kwargs)  # says here and once what is wrong with the id or its arguments
        specification, actions = probe.spec, probe.action_space
        probe.close()
        known_by_name = isinstance(specification.entry_point, str)
        wanted = self.workers
        if wanted is None:
            possible = known_by_name and os.name == "posix"
            wanted = min(_cores() - 1, len(seeds) // EPISODES_PER_WORKER) if possible else 0
        elif wanted and not known_by_name:
            raise ConfigError(
                f"expected {env_id} to be registered under 'module:Class', so that simulator processes can make it, "
                f"found {specification.entry_point!r}; register it so, or use 0 simulators"
            )
        wanted = min(wanted, len(seeds))
        if wanted == 0:
            return LocalSimulators(env_id, env_kwargs, seeds)
        while len(self._started) < wanted:
            self._started.append(_Worker())
        return _WorkerSimulators(env_id, seeds, specification, actions, self._started[:wanted], self)

    def close(self) -> None:
        """Ends the workers; another rollout would start new ones."""
        _end(self._started)

    def __enter__(self) -> SimulatorPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process that runs `simulator_worker.py`, and this end of its connection."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                # -P: the file's folder is not searched for modules, some of which are called like others'
                [sys.executable, "-P", simulator_worker.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the rollout's process, which then ends its workers
            )
        self.unanswered = 0
        self.connection.send(sys.path)

    def send(self, name: str, *arguments: Any) -> None:
        """Asks for something; answers come in the order of the questions."""
        self.unanswered += 1
        try:
            self.connection.send((name, arguments))
        except OSError as error:
            raise self._ended() from error

    def receive(self) -> tuple[Any, ...]:
        """The answer to the oldest question: (True, result) or (False, episode or None, reason)."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        self.unanswered -= 1
        return answer

    def _ended(self) -> SimulatorError:
        try:
            code = self.process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        how = "its connection is closed" if code is None else f"it ended with exit code {code}"
        if code is not None and code < 0:
            how = f"it was killed by {signal.Signals(-code).name}"
        return SimulatorError(
            f"Expected simulator process {self.process.pid} to answer, found that {how}; run again, with fewer "
            "simulators if memory is short, or with 0 to step the environments in this process."
        )

    def end(self) -> None:
        """Ends the process: politely if it owes no answer, else at once."""
        if self.unanswered:
            self.process.kill()
        self.connection.close()
        try:
            self.process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _end(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


class _WorkerSimulators(Simulators):
    """Episode i belongs to worker i modulo their number, so that every part of a batch keeps all of them busy."""

    def __init__(
        self,
        env_id: str,
        seeds: Sequence[int],
        specification: Any,
        actions: Any,
        workers: list[_Worker],
        pool: SimulatorPool,
    ) -> None:
        super().__init__(env_id, seeds)
        self.actions, self.workers, self.pool = actions, workers, pool
        self.sent: deque[np.ndarray] = deque()
        self.failed = False
        everyone = np.arange(len(seeds))
        try:
            self._ask("open", everyone, lambda rows: (specification, rows.tolist()))
            self._answers(everyone)
        except BaseException:
            self.close()
            raise

    def reset(self) -> tuple[Float[np.ndarray, "episodes state"], list[dict[str, Any]]]:
        """See Simulators."""
        everyone = np.arange(len(self.seeds))
        self._ask("reset", everyone, lambda rows: ([self.seeds[row] for row in rows],))
        infos: list[dict[str, Any]] = [{} for _ in self.seeds]
        states = []
        for rows, (share, told) in self._answers(everyone):
            states.append((rows, share))
            for row, info in zip(rows.tolist(), told, strict=True):
                infos[row] = info
        return _in_order(states), infos

    def send(self, episodes: Sequence[int], actions: Float[np.ndarray, "episodes action"]) -> None:
        """See Simulators."""
        live = np.asarray(episodes)
        self._ask("step", live, lambda rows: (live[rows].tolist(), actions[rows]))
        self.sent.append(live)

    def receive(self) -> Stepped:
        """See Simulators."""
        answers = self._answers(self.sent.popleft())
        states, rewards, ended = (_in_order([(rows, part[place]) for rows, part in answers]) for place in range(3))
        successes = {row: told for rows, part in answers for row, told in zip(rows.tolist(), part[3], strict=True)}
        return Stepped(states, rewards, ended, [successes[row] for row in range(len(successes))])

    def close(self) -> None:
        """See Simulators."""
        if self.failed or any(worker.unanswered for worker in self.workers):
            self.pool.close()
            return
        for worker in self.workers:
            worker.send("close")
        for worker in self.workers:
            worker.receive()

    def _shares(self, episodes: np.ndarray) -> list[tuple[_Worker, np.ndarray]]:
        """Which rows of these episodes each worker steps; a worker without any is left out."""
        owners = episodes % len(self.workers)
        shares = [(worker, np.flatnonzero(owners == index)) for index, worker in enumerate(self.workers)]
        return [(worker, rows) for worker, rows in shares if len(rows)]

    def _ask(self, name: str, episodes: np.ndarray, arguments: Callable[[np.ndarray], tuple[Any, ...]]) -> None:
        for worker, rows in self._shares(episodes):
            worker.send(name, *arguments(rows))

    def _answers(self, episodes: np.ndarray) -> list[tuple[np.ndarray, Any]]:
        """What each worker answers to the oldest question, with the rows it is about."""
        answers = []
        for worker, rows in self._shares(episodes):
            fine, *told = worker.receive()
            if not fine:
                self.failed = True
                episode, reason = told
                if episode is not None:
                    raise self._failure(episode, reason)
                raise SimulatorError(
                    f"Expected a simulator process to run {self.env_id}, found {reason}; use 0 simulators to step it "
                    "in this process."
                )
            answers.append((rows, told[0]))
        return answers


def _in_order(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The parts' rows at the places they name."""
    places = np.concatenate([rows for rows, _ in parts])
    content = np.concatenate([part for _, part in parts])
    whole = np.empty_like(content)
    whole[places] = content
    return whole
