"""The line of a generation says when it taught nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from evaluations.evolution.series import line
from namm.evolution.cmaes import CMAESConfig
from namm.evolution.loop import EvolutionConfig, FitnessReport, evolve


def test_a_generation_whose_candidates_are_all_alike_is_a_warning(tmp_path: Path) -> None:
    lines: list[str] = []

    def fitness(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        return FitnessReport(candidates.sum(1) * (generation != 2))

    config = EvolutionConfig(generations=3, part=None, search=CMAESConfig(population=6))
    evolve(fitness, torch.zeros(5), config, tmp_path, callback=lambda row, result: lines.append(line(row)))
    assert ["walked at random (1 in a row)" in one for one in lines] == [False, True, False]
