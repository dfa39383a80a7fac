"""What ranks do in tests of launching them: functions of a module that is quickly imported."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from namm.errors import ConfigError
from namm.evolution.loop import evolve
from namm.evolution.ranks import joined
from tests.namm.evolution_worlds import CONFIG, PARAMS, FitnessReport, fitness, validate


def world(folder: Path, pause_s: float = 0.0) -> None:
    """A cheap evolution; rank 1 of the first attempt is killed in generation 4 where a file asks for it."""

    def slow(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        time.sleep(pause_s)
        if generation == 4 and (folder / "kill-rank-1").exists() and _is_first_attempt_of_rank_1():
            os.kill(os.getpid(), signal.SIGKILL)
        return fitness(candidates, generation, seed)

    with joined(patience_s=60.0) as ranks:
        line = f"rank {ranks.rank} of {ranks.size}, threads: {torch.get_num_threads()}\n"
        os.write(1, line.encode())  # whole: unbuffered, print writes a line and its end apart, and ranks share a file
        evolve(slow, torch.zeros(PARAMS), CONFIG, folder, validate=validate, ranks=ranks)


def mistaken(folder: Path) -> None:
    """Rank 1 alone finds a mistake, while the leader waits for it."""
    (folder / f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}-of-{os.environ['RANK']}").touch()
    with joined(patience_s=60.0) as ranks:
        if not ranks.leads:
            raise ConfigError("expected another setting, found this one; change it.")
        ranks.sum(torch.ones(1))


def _is_first_attempt_of_rank_1() -> bool:
    return os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
