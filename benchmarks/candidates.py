"""Candidate evaluations a second, side by side against one by one: `python benchmarks/candidates.py`.

An evaluation is one candidate NAMM on one prompt: the context is read under its forgetting, then the question is asked.
One by one (a batch of one prompt under one candidate, every token read anew, as the NAMM paper's released code does)
is the base; it runs on this project's own memory, so the ratio is what batching gives, not a faster kernel.
Same shipped model, prompts and candidates for all, taking turns; what counts are the ratios. On several cores evolution
gains most from a rank a core (`torchrun`), each with its share of the candidates and one thread: measured as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import tyro
from jaxtyping import Float
from processes import spawned
from torch import Tensor

import checkpoints
from evaluations.evolution.recall_fitness import RecallFitness, RecallFitnessConfig
from evaluations.evolve import load_source
from evaluations.tasks.recall.tasks import TextPrompts, get_task, train_seed
from modalities.huggingface.attach import attach
from modalities.language.recall import recall
from namm import NAMM
from namm.evolution.ranks import Ranks
from namm.policies import make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHIPPED = Path(checkpoints.__file__).parent
SOURCE = str(SHIPPED / "text" / "recall-llama")


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    namm: Path = SHIPPED / "namm" / "text-v1"
    """NAMM around which candidates are drawn."""

    population: int = 32
    """Candidates."""

    part: int = 8
    """Candidates in one batch, as evolution scores them by default; all in one batch is measured, too."""

    prompts: int = 2
    """Prompts of each recall task."""

    context_tokens: int = 288
    """Context of every prompt."""

    interval: int = 48
    """Tokens between updates."""

    sigma: float = 0.1
    """Spread of the candidates."""

    one_by_one: int = 32
    """Evaluations that are timed one by one, spread over candidates and prompts; the rate is theirs."""

    repetitions: int = 3
    """Turns of each way; the median counts."""

    threads: int = 2
    """Torch threads of the ways in one process, and ranks of one thread each of the way in several."""


def candidates_of(settings: Settings, namm: NAMM) -> Float[Tensor, "population params"]:
    """The candidates that every way evaluates."""
    noise = torch.randn(settings.population, namm.flat.numel(), generator=torch.Generator().manual_seed(0))
    return namm.flat + settings.sigma * noise


def one_by_one(
    model: PreTrainedModel, namm: NAMM, candidates: Float[Tensor, "population params"], settings: Settings,
    prompts: list[TextPrompts],
) -> Callable[[], int]:  # fmt: skip
    """Evaluates some pairs of candidate and prompt, each alone; gives their number."""
    alone = [
        tuple(part[row : row + 1] for part in (batch.context, batch.question, batch.target))
        for batch in prompts
        for row in range(len(batch.context))
    ]

    def run() -> int:
        for index in range(settings.one_by_one):
            candidate = NAMM(namm.config, candidates[index % settings.population], namm.statistics)
            policy = make_policy("namm", namm=candidate, interval=settings.interval)
            recall(model, policy, *alone[index % len(alone)])
        return settings.one_by_one

    return run


def side_by_side(
    model: PreTrainedModel, namm: NAMM, candidates: Float[Tensor, "population params"], settings: Settings,
    part: int,
) -> Callable[[], int]:  # fmt: skip
    """One generation's fitness, so many candidates in a batch; gives the number of its evaluations."""
    config = RecallFitnessConfig(
        prompts=settings.prompts, context_tokens=(settings.context_tokens,), intervals=(settings.interval,)
    )
    fitness = RecallFitness(model, namm, config)

    def run() -> int:
        for some in candidates.split(part):
            fitness(some, 1, 0)
        return len(candidates) * settings.prompts * len(config.tasks)

    return run


def _rank(connection: Connection, settings: Settings, rank: Ranks, part: int, dtype: torch.dtype) -> None:
    """The life of a rank: as often as it is told, it scores its parts of the candidates, on one thread."""
    torch.set_num_threads(1)
    namm = NAMM.from_pretrained(settings.namm)
    parts = candidates_of(settings, namm).split(part)
    model = load_source(SOURCE, dtype)
    runs = [side_by_side(model, namm, parts[index], settings, part) for index in rank.share(len(parts))]
    connection.send(None)
    while connection.recv() is not None:
        connection.send(sum(run() for run in runs))


@contextmanager
def ranks(settings: Settings, part: int, dtype: torch.dtype) -> Iterator[Callable[[], int]]:
    """Processes that score one generation together, as evolution's ranks do; the callable has it done once."""
    each = [(settings, Ranks(number, settings.threads), part, dtype) for number in range(settings.threads)]
    with spawned(_rank, each) as connections:

        def run() -> int:
            for connection in connections:
                connection.send(part)
            return sum(connection.recv() for connection in connections)

        yield run


@torch.inference_mode()
def update_share(
    model: PreTrainedModel, namm: NAMM, candidates: Float[Tensor, "population params"], settings: Settings,
    prompts: TextPrompts, rows: int,
) -> float:  # fmt: skip
    """Seconds of one update / seconds of one interval's forward pass, mean over a context; all layers."""
    context = prompts.context[torch.arange(rows) % len(prompts.context)]
    policy = make_policy(
        "namm", namm=namm, interval=settings.interval, population=candidates,
        candidate=torch.arange(rows) % settings.population,
    )  # fmt: skip
    with attach(model.base_model, policy) as memory:
        began = time.perf_counter()
        model.base_model(input_ids=context, use_cache=True)
        seconds = time.perf_counter() - began
    updating = memory.update_seconds()
    return updating / (seconds - updating)


def main(settings: Settings) -> None:
    """Measures every way in turns and prints the ratios."""
    torch.set_num_threads(settings.threads)
    namm = NAMM.from_pretrained(settings.namm)
    candidates = candidates_of(settings, namm)
    exact, half = (load_source(SOURCE, dtype) for dtype in (torch.float32, torch.bfloat16))
    prompts = [
        get_task(name).sample(settings.prompts, settings.context_tokens, train_seed(0))
        for name in RecallFitnessConfig().tasks
    ]
    ways = {
        "one by one, float32": one_by_one(exact, namm, candidates, settings, prompts),
        "one by one, bfloat16": one_by_one(half, namm, candidates, settings, prompts),
        **{
            f"{part} side by side, {name}": side_by_side(model, namm, candidates, settings, part)
            for part in sorted({settings.part, settings.population})
            for name, model in (("float32", exact), ("bfloat16", half))
        },
    }
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        if settings.threads > 1:
            for part in sorted({settings.part, max(1, settings.population // settings.threads)}):
                name = f"{part} side by side, bfloat16, {settings.threads} ranks of one thread"
                ways[name] = stack.enter_context(ranks(settings, part, torch.bfloat16))
        for run in ways.values():
            run()  # warm up
        for _ in range(settings.repetitions):
            for name, run in ways.items():
                began = time.perf_counter()
                evaluations = run()
                rates.setdefault(name, []).append(evaluations / (time.perf_counter() - began))
    typical = {name: statistics.median(found) for name, found in rates.items()}
    base = max(typical["one by one, float32"], typical["one by one, bfloat16"])
    print(
        f"{settings.population} candidates on {sum(len(batch.context) for batch in prompts)} prompts of "
        f"{settings.context_tokens} tokens, interval {settings.interval}, {settings.threads} threads\n"
    )
    print("| way | evaluations a second | against the faster one by one |\n|---|---|---|")
    for name, rate in typical.items():
        print(f"| {name} | {rate:.1f} | {rate / base:.2f}x |")
    print("\nOne update against one interval's forward pass (all layers):\n")
    print("| rows in the batch | float32 | bfloat16 |\n|---|---|---|")
    for rows in (1, settings.population * settings.prompts):
        shares = [
            statistics.median(
                update_share(model, namm, candidates, settings, prompts[0], rows) for _ in range(settings.repetitions)
            )
            for model in (exact, half)
        ]
        print(f"| {rows} | {shares[0]:.2f}x | {shares[1]:.2f}x |")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=(__doc__ or "").partition("\n\n")[0]))
