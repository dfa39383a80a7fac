"""A cheap evolution for tests in processes of their own, and how such processes are started, killed and met."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from namm.evolution.cmaes import CMAESConfig
from namm.evolution.history import read_rows
from namm.evolution.loop import EvolutionConfig, EvolutionResult, FitnessReport, ValidationReport, evolve
from namm.evolution.ranks import joined

PARAMS = 40
CONFIG = EvolutionConfig(
    generations=12, seed=7, validate_every=4, part=3, noise_every=2, noise_candidates=3,
    search=CMAESConfig(population=10, sigma=0.3, decompose_every=5),
)  # fmt: skip


def fitness(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
    """A matrix product, so that the last bits depend on how many candidates are scored together; one of them fails."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(PARAMS, 600, generator=generator)
    values = -(candidates @ weights - 1).square().mean(1)
    if generation == 3 and bool((candidates.sum(1) > 1).any()):
        raise RuntimeError("one of these is too much")
    return FitnessReport(values, {"drawn": seed % 97}, {"length": candidates.norm(dim=1)})


def validate(mean: torch.Tensor, generation: int) -> ValidationReport:
    return ValidationReport(-float((mean - 0.1).norm()))


def world(folder: str, rank: int, size: int, port: int, pause_s: float) -> None:
    """One rank of an evolution, as torchrun would start it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)

    def slow(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        time.sleep(pause_s)
        return fitness(candidates, generation, seed)

    with joined(patience_s=60) as ranks:
        mine = Path(folder) if ranks.leads else Path(folder) / "not-the-leader"
        start = torch.zeros(PARAMS) + rank  # only the leader's start counts
        evolve(slow, start, CONFIG, mine, validate=validate, ranks=ranks)


def processes() -> ForkServerContext:
    """Real processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.namm.evolution_worlds"])
    return context


def start_world(folder: Path, size: int, pause_s: float = 0.0) -> list[multiprocessing.process.BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [processes().Process(target=world, args=(str(folder), rank, size, port, pause_s)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    return ranks


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "does not get on"
        time.sleep(0.001)


def outcome(folder: Path) -> tuple[list[dict], EvolutionResult]:
    """What must not depend on processes, kills or ranks."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder)]
    return rows, EvolutionResult.load(folder)
