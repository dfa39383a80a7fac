"""Who plays the units of a plan: this process, or worker processes beside it.

Workers are spawned, load the models themselves, and send back what came out; only their parent writes rows, so a worker
that is killed can cost nothing but the unit it was playing. A worker whose parent is gone ends at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from evaluations.experiment.contract import Runner, Setup, Unit
from evaluations.rows.results import Cell

LEAVE_SECONDS = 5.0
"""An idle worker has to end and to put its locks away."""


@dataclass(frozen=True)
class Outcome:
    """How the playing of a unit ended: with contents for its rows, with an error, or with the worker's death."""

    unit: Unit
    cells: tuple[Cell, ...]
    contents: Sequence[dict[str, Any]] | None = None
    error: Exception | None = None


class Players(Protocol):
    """Anything that can play units."""

    def room(self) -> int:
        """Units that can be started now."""
        ...

    def start(self, unit: Unit, cells: Sequence[Cell]) -> None:
        """Begins to play; there must be room."""

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended; returns at the first end, or when the time is over."""
        ...


class ThisProcess:
    """Plays one unit at a time, here."""

    def __init__(self, runners: Mapping[str, Runner]) -> None:
        self.runners = runners
        self._started: list[tuple[Unit, tuple[Cell, ...]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._started.clear()

    def room(self) -> int:
        """See Players."""
        return 1 - len(self._started)

    def start(self, unit: Unit, cells: Sequence[Cell]) -> None:
        """See Players."""
        self._started.append((unit, tuple(cells)))

    def wait(self, seconds: float) -> list[Outcome]:
        """See Players."""
        started, self._started = self._started, []
        return [Outcome(unit, cells, self.runners[unit.target].run(unit, cells)) for unit, cells in started]


class Workers:
    """Worker processes, as a context that ends them however it is left.

    Args:
        setup: What each of them loads.
        number: How many.
        first: Index of the first one on this machine.
        say: Told when one of them is gone.
    """

    def __init__(self, setup: Setup, number: int, first: int, say: Callable[[str], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._say = say
        self._processes: dict[Connection, SpawnProcess] = {}
        self._playing: dict[Connection, tuple[Unit, tuple[Cell, ...]]] = {}
        for index in range(first, first + number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, setup, index), name=f"worker {index}")
            process.start()
            theirs.close()
            self._processes[ours] = process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        idle = [process for connection, process in self._processes.items() if connection not in self._playing]
        for connection in self._processes:
            connection.close()  # the end of an idle one
        for process in idle:
            process.join(LEAVE_SECONDS)
        for process in self._processes.values():
            process.terminate()  # what it may still be playing is wanted by nobody
            process.join()

    def room(self) -> int:
        """See Players."""
        return len(self._processes) - len(self._playing)

    def start(self, unit: Unit, cells: Sequence[Cell]) -> None:
        """See Players."""
        idle = next(connection for connection in self._processes if connection not in self._playing)
        self._playing[idle] = unit, tuple(cells)
        try:
            idle.send(self._playing[idle])
        except OSError:  # it is dead already: `wait` will see that
            return

    def wait(self, seconds: float) -> list[Outcome]:
        """See Players."""
        ended = []
        for connection in wait(list(self._processes), seconds):
            assert isinstance(connection, Connection)
            try:
                answer = connection.recv()
            except (EOFError, OSError):
                answer = None
                self._bury(connection)
            playing = self._playing.pop(connection, None)
            if playing is not None:
                error, contents = (answer, None) if isinstance(answer, Exception) else (None, answer)
                ended.append(Outcome(*playing, contents, error))
        return ended

    def _bury(self, connection: Connection) -> None:
        process = self._processes.pop(connection)
        connection.close()
        process.join()
        code = process.exitcode or 0
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        unit = self._playing[connection][0].label if connection in self._playing else "nothing"
        self._say(f"warning: {process.name} (process {process.pid}) {how} while it played {unit}")


def _work(connection: Connection, setup: Setup, index: int) -> None:
    """A worker's life: it plays what it is sent until nobody is there to send anything."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(setup.threads)
    runners = setup.load(index)
    while True:
        try:
            unit, cells = connection.recv()
        except EOFError:
            return
        answer: Any
        try:
            answer = runners[unit.target].run(unit, cells)
        except Exception as error:
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            answer = error
        connection.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
