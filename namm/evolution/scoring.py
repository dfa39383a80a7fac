"""How a population is scored: in parts of fixed size, by any number of ranks, with the same last bit for each number.

How a batch rounds depends on its size, so a share must not depend on the number of ranks: the population is cut into
parts of so many candidates, and whole parts are given out. A part that fails is tried candidate by candidate. A few
candidates are scored again on other prompts now and then, which tells noise from merit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError, NammError
from namm.evolution.history import plain
from namm.evolution.ranks import Ranks


@dataclass(frozen=True)
class FitnessReport:
    """What the evaluation of some candidates gives back."""

    fitness: Float[Tensor, " candidates"]
    """One number a candidate, larger is better; -inf or NaN for a candidate that failed."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Anything else for the generation's row that is the same for all candidates: numbers, strings, lists."""
    candidates: Mapping[str, Float[Tensor, " candidates"]] = field(default_factory=dict)
    """Numbers of each candidate besides its fitness; the row holds the mean over the population."""


@dataclass(frozen=True)
class ValidationReport:
    """What a validation of the mean gives back."""

    score: float
    """Larger is better; chooses the mean that is deployed."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Anything else for the generation's row."""


Fitness = Callable[[Float[Tensor, "candidates params"], int, int], FitnessReport]
"""Scores float32 candidates in a generation (second argument) on what a seed (third) draws, equal for all."""

Validation = Callable[[Float[Tensor, " params"], int], ValidationReport]
"""Scores the float32 mean after a generation, on data that no fitness has seen."""


@dataclass(frozen=True)
class Scores:
    """A scored population, the same on every rank."""

    fitness: Float[Tensor, " population"]
    """float64; not finite for a candidate that failed."""
    again: Float[Tensor, " candidates"]
    """Fitness of the first few candidates under another seed; empty when that was not asked for."""
    extras: Mapping[str, Any]
    """What the row gets: what all candidates share, and means over candidates."""
    errors: tuple[str, ...]
    """What was raised, each text once."""
    stop: bool
    """Whether any rank was asked to stop."""


def generation_seed(seed: int, generation: int, again: bool = False) -> int:
    """The seed, below 2^63, under which every candidate of a generation is scored, or some are scored again."""
    entropy = [seed, generation, 1] if again else [seed, generation]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def score_population(
    fitness: Fitness,
    candidates: Float[Tensor, "population params"],
    generation: int,
    seeds: tuple[int, int],
    *,
    part: int | None,
    again: int = 0,
    ranks: Ranks | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Scores:
    """Scores a population; every rank must call this with the same arguments.

    Args:
        fitness: Scores candidates.
        candidates: float32, one a row.
        generation: The generation that is scored.
        seeds: Of the generation, and of the candidates that are scored again.
        part: Candidates scored in one call; None for all in one.
        again: How many candidates are scored again.
        ranks: Who scores; this process alone by default.
        stopping: Asked when this rank has scored its share.

    Raises:
        NammError: Every candidate failed.
    """
    ranks = ranks or Ranks()
    population = len(candidates)
    size = part or population
    work = [(slice(first, first + size), seeds[0], first) for first in range(0, population, size)]
    if again:
        work.append((slice(0, again), seeds[1], population))
    found = torch.zeros(population + again, dtype=torch.float64)
    told: dict[str, Any] = {"parts": {}, "errors": []}
    cause: Exception | None = None
    for index in ranks.share(len(work)):
        rows, seed, first = work[index]
        report, errors = _score_part(fitness, candidates[rows], generation, seed)
        found[first : first + len(report.fitness)] = report.fitness.detach().to("cpu", torch.float64)
        told["errors"] += [f"{type(error).__name__}: {error}"[:300] for error in errors]
        cause = cause or next(iter(errors), None)
        if first < population:
            told["parts"][str(index)] = [plain(report.extras), _sums(report)]
    told["stop"] = stopping()
    found = ranks.sum(found)
    everyone = ranks.gather(told)
    errors = tuple(dict.fromkeys(text for one in everyone for text in one["errors"]))
    if not bool(torch.isfinite(found[:population]).any()):
        raise NammError(
            f"Expected at least one finite fitness, found {population} of {population} candidates failed at generation "
            f"{generation} ({errors[0] if errors else 'no fitness was finite'}); the folder stays resumable."
        ) from cause
    parts = {int(index): part for one in everyone for index, part in one["parts"].items()}
    return Scores(
        found[:population],
        found[population:],
        _merged([parts[index] for index in sorted(parts)]),
        errors,
        any(one["stop"] for one in everyone),
    )


def _sums(report: FitnessReport) -> dict[str, tuple[float, int]]:
    """Sum and number of the finite values of what a report says of each candidate."""
    finite = {name: own.double()[torch.isfinite(own)] for name, own in report.candidates.items()}
    return {name: (float(own.sum()), len(own)) for name, own in finite.items()}


def _score_part(
    fitness: Fitness, candidates: Float[Tensor, "candidates params"], generation: int, seed: int
) -> tuple[FitnessReport, list[Exception]]:
    """A part's report and what was raised: whoever raises alone too has failed."""
    try:
        report = fitness(candidates, generation, seed)
    except Exception as error:
        if len(candidates) == 1:
            return FitnessReport(torch.tensor([-math.inf])), [error]
        singles = [_score_part(fitness, row[None], generation, seed) for row in candidates]
        alive = [report for report, errors in singles if not errors]
        lost = torch.tensor([math.nan])
        return FitnessReport(
            torch.cat([report.fitness.detach().cpu() for report, _ in singles]),
            alive[0].extras if alive else {},
            {
                name: torch.cat([report.candidates.get(name, lost).detach().cpu() for report, _ in singles])
                for name in (alive[0].candidates if alive else {})
            },
        ), [error for _, errors in singles for error in errors]
    if report.fitness.shape != candidates.shape[:1]:
        raise ConfigError(
            f"Fitness: expected {len(candidates)} numbers, one a candidate, found shape {list(report.fitness.shape)}; "
            "the fitness must score whatever candidates it is given."
        )
    return report, []


def _merged(parts: list[list[Any]]) -> dict[str, Any]:
    """What the parts share, then means over the candidates of what each of them has."""
    extras: dict[str, Any] = {}
    sums: dict[str, list[list[float]]] = {}
    for shared, own in parts:
        extras = {**shared, **extras}
        for name, value in own.items():
            sums.setdefault(name, []).append(value)
    means = {name: math.fsum(s for s, _ in own) / max(1, sum(n for _, n in own)) for name, own in sums.items()}
    return extras | means
