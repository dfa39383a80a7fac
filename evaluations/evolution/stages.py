"""Stages of an evolution: which tasks, for how many generations, as one run that carries everything over.

Written `TASK,TASK:GENERATIONS`, as in `passkey:300 passkey,pairs:250`. The paper adds a task with each of three stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from jaxtyping import Float
from torch import Tensor

from evaluations.tasks.recall.tasks import get_task
from evaluations.tasks.text import benchmark_tasks
from namm.errors import ConfigError
from namm.evolution.loop import EvolutionConfig
from namm.evolution.scoring import Fitness, FitnessReport, Validation, ValidationReport

PAPER_STAGES = (
    "longbench/passage_retrieval_en:300",
    "longbench/passage_retrieval_en,longbench/dureader:250",
    "longbench/passage_retrieval_en,longbench/dureader,longbench/narrativeqa:120",
)
"""Tasks and lengths of the paper; needs the benchmark's data."""

OFFLINE_STAGES = ("passkey:300", "passkey,pairs:250", "passkey,pairs,copy:120")
"""The same course on the recall tasks that ship with the project."""


@dataclass(frozen=True)
class Stage:
    """A part of an evolution with tasks of its own."""

    tasks: tuple[str, ...]
    """Recall tasks, or tasks of benchmarks (NAME/TASK)."""

    generations: int
    """How long."""

    @property
    def benchmarks(self) -> bool:
        """Whether the tasks are those of benchmarks."""
        return "/" in self.tasks[0]

    @staticmethod
    def parse(text: str) -> Stage:
        """A stage as it is written on the command line.

        Raises:
            ConfigError: It is written otherwise, or mixes recall tasks and benchmarks.
            UnknownNameError: There is no such task.
        """
        names, _, count = text.rpartition(":")
        if not names or not count.isdigit() or int(count) < 1:
            raise ConfigError(f"A stage is written TASK,TASK:GENERATIONS, as in passkey,pairs:250; found {text!r}.")
        tasks = tuple(part.strip() for part in names.split(","))
        if len({"/" in task for task in tasks}) > 1:
            raise ConfigError(
                f"A stage has recall tasks or tasks of benchmarks, found both in {text!r}; make two runs of it."
            )
        for task in tasks:
            if "/" in task:
                benchmark_tasks([task])
            else:
                get_task(task)
        return Stage(tasks, int(count))


def stage_ends(stages: Sequence[Stage]) -> tuple[int, ...]:
    """The last generation of each stage."""
    return tuple(accumulate(stage.generations for stage in stages))


class StagedFitness:
    """The fitness and the validation of whichever stage a generation belongs to."""

    def __init__(self, stages: Sequence[tuple[Fitness, Validation]], config: EvolutionConfig) -> None:
        """A fitness of stages.

        Args:
            stages: Fitness and validation of each.
            config: Says which generation belongs to which.
        """
        self.stages, self.config = stages, config

    def __call__(self, candidates: Float[Tensor, "candidates params"], generation: int, seed: int) -> FitnessReport:
        """Scores candidates on the stage's tasks."""
        return self.stages[self.config.stage(generation) - 1][0](candidates, generation, seed)

    def validate(self, mean: Float[Tensor, " params"], generation: int) -> ValidationReport:
        """Validates the mean on the stage's tasks."""
        return self.stages[self.config.stage(generation) - 1][1](mean, generation)
