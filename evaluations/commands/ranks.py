"""Starts the ranks of a command on this machine, with torch's elastic launcher, as `torchrun` does.

Unlike under `torchrun` a rank gives back how it ended, so that a mistake in the input is told once and never tried
again, and a wish to stop reaches every rank and has all the time that their work needs. For this the launcher runs in
a thread, which leaves SIGINT and SIGTERM to the main one; ranks are born with both blocked, and listen when ready.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

from evaluations.commands.exit import FAILED, INTERRUPTED, Ending, debugging, ending, tell
from namm.errors import ConfigError

STOPS = (signal.SIGINT, signal.SIGTERM)
STOP_FILE = "stop"
LEAVE_AFTER_S = 5.0
"""How long a rank that is done waits to be let go."""


@dataclass(frozen=True)
class Launch:
    """The processes of a command on this machine."""

    ranks: int = 1
    """Processes on this machine that share each generation, a core or a GPU for each; with any number of them, and
    under torchrun, the run is the same bit for bit."""

    max_restarts: int = 0
    """How often all ranks are started again after one of them died; they go on from the last generation."""

    def __post_init__(self) -> None:
        for name, least in (("ranks", 1), ("max_restarts", 0)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: expected at least {least}, found {value}; raise it, or leave it out."
                )
        mine, all_ = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if self.needed and (all_ != "1" or "TORCHELASTIC_RUN_ID" in os.environ):
            raise ConfigError(
                "--ranks and --max-restarts start processes by themselves: expected to be started alone, found rank "
                f"{mine} of {all_} (RANK, WORLD_SIZE: torchrun's doing); leave them out under torchrun and give it "
                "--nproc-per-node and --max-restarts, or start this command without it."
            )

    @property
    def needed(self) -> bool:
        """Whether other processes do the work."""
        return self.ranks > 1 or self.max_restarts > 0

    def run(self, work: Callable[..., object], *arguments: Any, resume: str) -> None:
        """Does the work on every rank, and ends as they do.

        Torch has one thread a rank where OMP_NUM_THREADS does not say otherwise.

        Args:
            work: A module's function; the environment tells it which rank it is, as under `torchrun`.
            *arguments: What it is called with; they are pickled.
            resume: Said to whoever interrupts, where the work does not say it better.

        Raises:
            SystemExit: A rank did not finish; what there is to say was said.
        """
        resource_tracker.ensure_running()  # starting it unblocks signals, and must not do so in the launcher's thread
        with tempfile.TemporaryDirectory(prefix="ranks-") as name, _one_thread_each(), _quiet():
            folder = Path(name)
            with _passing_on(folder), ThreadPoolExecutor(1) as pool:
                endings = pool.submit(_launch, self, folder, (folder, resume, work, arguments)).result()
        stopped = [one for one in endings if one.code == INTERRUPTED][:1]
        wrong = [one for one in endings if one.code not in (0, INTERRUPTED)]
        told = [one for one in wrong if not one.follows] or stopped or wrong
        if told:
            for message in dict.fromkeys(one.message for one in told):
                tell(message)
            sys.exit(told[0].code)


def _launch(how: Launch, folder: Path, arguments: tuple[Any, ...]) -> list[Ending]:
    """The thread of the launcher: how the ranks ended, by rank, or how the one did that died first."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=how.ranks, max_restarts=how.max_restarts, run_id=str(uuid.uuid4()),
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
    )  # fmt: skip
    try:
        found = elastic_launch(config, _as_rank)(*arguments)
    except ChildFailedError as error:
        [(rank, failure), *_] = error.failures.items()
        died = f"was killed ({failure.signal_name()})" if failure.exitcode < 0 else "broke (its traceback is above)"
        after = f" after {how.max_restarts} restarts" if how.max_restarts else ""
        return [
            Ending(
                FAILED,
                f"error: expected {how.ranks} ranks to finish, found that rank {rank} {died}{after}. What was saved is "
                "kept: the same command continues"
                f"{'' if after else ', and --max-restarts lets it do so by itself'}.",
            )
        ]
    return [found[rank] for rank in sorted(found)]


def _as_rank(folder: Path, resume: str, work: Callable[..., object], arguments: tuple[Any, ...]) -> Ending:
    """The life of a rank; what breaks it is shown here, where it is known, and ends the process for the launcher."""
    register = folder / f"rank-{os.environ['RANK']}"

    def listen_and_work() -> None:
        os.setsid()  # a terminal's Ctrl-C comes once, passed on by the parent
        signal.signal(signal.SIGINT, signal.default_int_handler)
        register.write_text(str(os.getpid()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        if (folder / STOP_FILE).exists():
            raise KeyboardInterrupt
        work(*arguments)

    try:
        return ending(listen_and_work, resume)
    except Exception:
        traceback.print_exc()
        raise
    finally:
        register.unlink(missing_ok=True)
        # torch keeps a rank until the launcher lets it go, which never comes from one that has died or is closing
        alone = threading.Timer(LEAVE_AFTER_S, os.kill, (os.getpid(), signal.SIGINT))
        alone.daemon = True
        alone.start()


@contextmanager
def _passing_on(folder: Path) -> Iterator[None]:
    """SIGINT and SIGTERM go to the ranks that listen; a file tells those that are not yet ready."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        (folder / STOP_FILE).touch()
        for register in folder.glob("rank-*"):
            with suppress(OSError, ValueError):  # it has just ended, or has just begun and will see the file
                os.kill(int(register.read_text(encoding="utf-8")), number)

    before = {number: signal.signal(number, pass_on) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """What `torchrun` does for ranks, so that they do not fight for cores."""
    said = "OMP_NUM_THREADS" in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        if not said:
            del os.environ["OMP_NUM_THREADS"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the launcher's log of every signal and exit, of which the command says what matters."""
    before = logging.root.manager.disable
    if not debugging():
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
