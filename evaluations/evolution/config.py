"""What `namm-evolve` can be told, and the presets that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import tyro

import checkpoints
from evaluations.boards.wandb_package import Mode
from evaluations.evolution.recall_fitness import RecallFitnessConfig, fitness_preset
from evaluations.evolution.searches import make_optimizer
from evaluations.evolution.stages import OFFLINE_STAGES, PAPER_STAGES, Stage, stage_ends
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.evolution.loop import EvolutionConfig


@dataclass(frozen=True)
class SearchPreset:
    """A search and its length; what candidates are judged on has presets of the same names."""

    optimizer: str
    sigma: float
    generations: int


SEARCHES: Mapping[str, SearchPreset] = MappingProxyType(
    {
        # isotropic, because at 4172 parameters a covariance learns nothing in a few hundred generations; isotropic at
        # 0.065 won the comparison of checkpoints/recipes/compare_optimizers.py (docs/evolution.md)
        "fast": SearchPreset("cmaes-isotropic", 0.065, 150),
        "diagonal": SearchPreset("cmaes-diagonal", 0.2, 150),
        "robust": SearchPreset("cmaes-isotropic", 0.065, 300),
        "paper": SearchPreset("cmaes", 0.065, 670),
    }
)
"""Searches by name; `paper` holds the released constants (full covariance, sigma 0.065)."""


@dataclass(frozen=True)
class EvolveConfig:
    """An evolution from nothing to a NAMM."""

    model: str = str(Path(checkpoints.__file__).parent / "text" / "recall-llama")
    """Source: a causal language model: a folder, a Hub id, FILE.gguf, or smollm2, gemma3-270m (docs/pretrained.md)."""

    more_models: tuple[str, ...] = ()
    """Further sources: the fitness is the mean over all of them, each with its own statistics (recall tasks only)."""

    out: Path = Path("runs/evolve")
    """Folder of the run; the NAMM goes to OUT/namm, OUT/live.html shows the run."""

    start: Path | None = None
    """NAMM to start from, with its source statistics; all zeros (keeps everything) and fresh statistics by default."""

    preset: Literal["fast", "diagonal", "robust", "paper"] = "fast"
    """Search, and on the command line also what candidates are judged on: isotropic; diagonal; isotropic with
    statistics, sizes and intervals that vary; the paper's constants and its three stages."""

    stages: tuple[str, ...] = ()
    """Stages as TASK,TASK:GENERATIONS, one run that carries search and statistics over: passkey:300 passkey,pairs:250.
    Tasks of benchmarks are NAME/TASK. They replace tasks and generations."""

    data: Path | None = None
    """Folder with the data of benchmarks; None: their home on the Hub."""

    templates: Path | None = None
    """Folder with the prompt templates of benchmarks; None: beside the data."""

    window: int = 32_768
    """Longest prompt of a benchmark with its answer, in tokens; longer ones lose their middle."""

    lengths: tuple[int, ...] = (4096,)
    """Context lengths of benchmarks that make contexts or come in lengths (ruler, niah, babilong)."""

    samples: int | None = None
    """Prompts a task and length, where a benchmark makes them; by default as many as its source."""

    answers: Literal["generated", "likelihood"] = "generated"
    """What a benchmark's fitness scores: answers that are generated, or the likelihood of the right one, which is far
    denser."""

    validation_share: float = 0.0
    """Part of a benchmark's prompts that only validations see; 0: validations use all prompts, as published."""

    generations: int | None = None
    """Generations in all; the preset's by default."""

    optimizer: str | None = None
    """The search: cmaes, cmaes-diagonal, cmaes-isotropic, pycma, pycma-full, snes or openai-es; by default the
    preset's."""

    population: int = 32
    """Candidates a generation."""

    sigma: float | None = None
    """Initial step size; the preset's by default. A smaller one refines a NAMM that `start` names."""

    antithetic: bool = False
    """Draw candidates in opposite pairs."""

    part: int = 8
    """Candidates scored in one batch, and the least that a rank gets."""

    noise_every: int = 4
    """Generations between measurements of the fitness noise; 0 for none."""

    validate_every: int = 10
    """Generations between validations of the mean."""

    seed: int = 0
    """Seed of candidates and prompts."""

    scorer: Literal["bam", "mlp"] = "bam"
    """The NAMM's network; a NAMM to start from has its own."""

    signals: tuple[str, ...] | None = None
    """What the NAMM reads (namm.signals), as `spectrogram key_difference`; by default the spectrogram of attention, or
    what the NAMM to start from reads."""

    fitness: Annotated[RecallFitnessConfig, tyro.conf.arg(name="")] = field(default_factory=RecallFitnessConfig)
    """What candidates are judged on; benchmarks take `prompts`, `price` and `intervals`, of which one is drawn a
    generation."""

    bfloat16: bool = True
    """Run the source in bfloat16 while evolving, unless this CPU only emulates it; the NAMM itself is always fp32."""

    threads: int | None = None
    """Torch threads of each process; by default all, and one where several ranks are started."""

    device: str = "cpu"
    """Where the source runs; with several ranks `cuda` is one GPU for each."""

    wandb: Mode = "auto"
    """Weights & Biases: online, offline, disabled, or auto (online where somebody is logged in, else offline)."""

    pictures_every: int = 10
    """Generations between pictures of what the mean keeps; 0 for none."""

    def course(self) -> list[Stage]:
        """The stages, of which there is at least one.

        Raises:
            ConfigError: A stage is written wrongly.
        """
        if self.stages:
            return [Stage.parse(text) for text in self.stages]
        return [Stage(self.fitness.tasks, self.generations or SEARCHES[self.preset].generations)]

    def search(self) -> EvolutionConfig:
        """The search and its course.

        Raises:
            ConfigError: A number is out of its range.
            UnknownNameError: There is no such optimizer.
        """
        preset = SEARCHES[self.preset]
        ends = stage_ends(self.course())
        optimizer = make_optimizer(
            self.optimizer or preset.optimizer, self.population, self.sigma or preset.sigma, self.antithetic
        )
        return EvolutionConfig(
            generations=ends[-1],
            seed=self.seed,
            validate_every=self.validate_every,
            stage_ends=ends[:-1],
            part=self.part,
            noise_every=self.noise_every,
            search=optimizer,
        )

    def __post_init__(self) -> None:
        if self.stages and self.generations is not None:
            raise ConfigError(
                f"Stages say how long each of them is, found also generations={self.generations}; leave one out."
            )
        for name in ("threads", "window"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name}: expected at least 1, found {value}; raise it, or leave it out.")
        if self.pictures_every < 0:
            raise ConfigError(f"--pictures-every: expected 0 or more, found {self.pictures_every}; 0 draws none.")
        if self.more_models and any(stage.benchmarks for stage in self.course()):
            raise ConfigError(
                "Several sources can be judged on recall tasks only; leave out more_models or benchmarks."
            )


def preset_config(name: str, **changes: Any) -> EvolveConfig:
    """A named evolution whole: search, what candidates are judged on, stages.

    Args:
        name: A key of `SEARCHES`.
        **changes: Fields that replace the preset's. With `data`, `paper` has its own tasks.

    Raises:
        UnknownNameError: There is no such preset.
    """
    if name not in SEARCHES:
        raise UnknownNameError(f"No evolution preset {name!r}. {did_you_mean(name, SEARCHES)}")
    fitness = fitness_preset("fast" if name == "diagonal" else name)
    stages: tuple[str, ...] = ()
    if name == "paper" and not {"stages", "generations"} & set(changes):
        stages = PAPER_STAGES if changes.get("data") else OFFLINE_STAGES
    return replace(EvolveConfig(preset=name, fitness=fitness, stages=stages), **changes)  # type: ignore[arg-type]
