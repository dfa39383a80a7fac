"""Evolves a NAMM on a text model: `python evaluations/evolve.py` (also `namm-evolve`).

Needs no gradient: every candidate of a generation reads the same prompts under its own forgetting, side by side in
one batch, and CMA-ES moves the mean. The mean with the best validation is what is saved in OUT/namm. A run that is
killed continues with the same command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

import checkpoints
from evaluations.commands import exit_code
from evaluations.harness import write_atomically
from evaluations.recall_fitness import RecallFitness, RecallFitnessConfig
from evaluations.source_statistics import source_statistics
from namm import NAMM, NAMMConfig
from namm.calibration import with_statistics
from namm.errors import CheckpointError
from namm.evolution.loop import EvolutionConfig, EvolutionResult, evolve
from namm.evolution.rates import CMAESConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRESETS: dict[str, EvolutionConfig] = {
    # isotropic: at 4172 parameters a covariance learns nothing in a few hundred generations (docs/evolution.md)
    "fast": EvolutionConfig(generations=150, search=CMAESConfig(covariance="isotropic", sigma=0.2)),
    "diagonal": EvolutionConfig(generations=150, search=CMAESConfig(covariance="diagonal", sigma=0.2)),
    "paper": EvolutionConfig(generations=300, search=CMAESConfig()),
}
"""Searches by name; `paper` holds the released constants (full covariance, sigma 0.065)."""


@dataclass(frozen=True)
class EvolveConfig:
    """An evolution from nothing to a NAMM."""

    model: str = str(Path(checkpoints.__file__).parent / "text" / "recall-llama")
    """Source: a folder or a Hugging Face Hub id of a causal language model."""

    out: Path = Path("runs/evolve")
    """Folder of the run; the NAMM goes to OUT/namm."""

    start: Path | None = None
    """NAMM to start from, with its source statistics; all zeros (keeps everything) and fresh statistics by default."""

    preset: Literal["fast", "diagonal", "paper"] = "fast"
    """The search: isotropic, diagonal, or the paper's constants."""

    generations: int | None = None
    """Generations in all; the preset's by default."""

    sigma: float | None = None
    """Initial step size; the preset's by default. A smaller one refines a NAMM that `start` names."""

    seed: int = 0
    """Seed of candidates and prompts."""

    scorer: Literal["bam", "mlp"] = "bam"
    """The NAMM's network."""

    fitness: Annotated[RecallFitnessConfig, tyro.conf.arg(name="")] = field(default_factory=RecallFitnessConfig)
    """What candidates are judged on."""

    bfloat16: bool = True
    """Run the source in bfloat16 while evolving; the NAMM itself is always fp32."""

    threads: int | None = None
    """Torch threads; all by default."""

    device: str = "cpu"
    """Where the source runs."""


def run(config: EvolveConfig, console: Console | None = None) -> EvolutionResult:
    """Runs an evolution, or what is left of it, and saves the NAMM.

    Args:
        config: What to run.
        console: Where progress goes; silent by default.

    Raises:
        NammError: A setting or a checkpoint is wrong.
        KeyboardInterrupt: Stopped; the same call continues.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    search = PRESETS[config.preset]
    search = EvolutionConfig(
        generations=config.generations or search.generations,
        seed=config.seed,
        search=replace(search.search, sigma=config.sigma or search.search.sigma),
    )
    model = load_source(config.model, torch.bfloat16 if config.bfloat16 else torch.float32, config.device)
    statistics_of = "+".join(dict.fromkeys(config.fitness.statistics))
    namm_config = NAMMConfig(
        scorer=config.scorer, interval=config.fitness.intervals[0], trained_statistics=statistics_of
    )
    if config.start is None:
        namm = NAMM(namm_config).to(config.device)
        namm = with_statistics(namm, _source_statistics(model, namm, config)).to(config.device)
    else:
        earlier = NAMM.from_pretrained(config.start)
        namm = NAMM(namm_config, earlier.flat, earlier.statistics).to(config.device)
    fitness = RecallFitness(model, namm, config.fitness)
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomically(config.out / "recipe.json", json.dumps(asdict(config), indent=2, default=str) + "\n")

    def show(row: Mapping[str, Any], result: EvolutionResult) -> None:
        if console is not None:
            console.print(_line(row), markup=False, highlight=False, soft_wrap=True)

    result = evolve(fitness, namm.flat.cpu(), search, config.out, validate=fitness.validate, callback=show)
    NAMM(namm.config, result.best_mean, namm.statistics).cpu().save_pretrained(config.out / "namm")
    return result


def load_source(name: str, dtype: torch.dtype, device: str = "cpu") -> PreTrainedModel:
    """A causal language model, ready for inference.

    Raises:
        CheckpointError: The folder or Hub id holds none.
    """
    from transformers import AutoModelForCausalLM  # after modalities, which makes it importable beside a CPU torch

    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a causal language model (a folder or a Hub id) at {name!r}, found none: {error}"
        ) from error
    return model.to(device).eval()


def _source_statistics(model: PreTrainedModel, namm: NAMM, config: EvolveConfig) -> Any:
    """The source's statistics, measured as released: full cache, before anything is evolved."""
    fitness = config.fitness
    return source_statistics(model, namm, fitness.tasks, max(fitness.context_tokens), min(fitness.intervals))


def _line(row: Mapping[str, Any]) -> str:
    """One generation as a line of progress."""
    fitness, extras, validation = row["fitness"], row["extras"], row["validation"]
    line = (
        f"generation {row['generation']:4d}  fitness {fitness['mean']:+.3f} (best {fitness['max']:+.3f})  "
        f"score {extras['relative_score']:.3f}  kept {extras['kept_fraction']:.3f}  "
        f"sigma {row['search']['sigma']:.3f}  {row['seconds']:.1f} s"
    )
    if validation:
        extra = validation["extras"]
        line += (
            f"\n    mean on validation: fitness {validation['score']:+.3f} (best {validation['best']:+.3f})  "
            f"score {extra['relative_score']:.3f}  kept {extra['kept_fraction']:.3f}"
        )
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""

    def work() -> None:
        config = tyro.cli(EvolveConfig, args=argv, description=(__doc__ or "").partition("\n\n")[0], prog="namm-evolve")
        result = run(config, Console())
        score = f"{result.best_score:+.3f}" if result.best_score is not None else "not validated"
        Console().print(f"Saved {config.out / 'namm'} (generation {result.best_generation}, validation {score}).")

    return exit_code(work, "nothing is lost, the same command continues.")


if __name__ == "__main__":
    sys.exit(main())
