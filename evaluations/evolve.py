"""Evolves a NAMM on a text model: `python evaluations/evolve.py` (also `namm-evolve`).

Needs no gradient: every candidate of a generation reads the same prompts under its own forgetting, several side by side
in one batch, and the search moves its mean. The mean with the best validation is what is saved in OUT/namm. A run that
is killed continues with the same command; `--ranks` shares each generation among processes of this machine, `torchrun`
among any number of machines.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from evaluations.commands.exit import exit_code
from evaluations.commands.ranks import Launch
from evaluations.evolution.config import SEARCHES, EvolveConfig, preset_config
from evaluations.evolution.pictures import draw_kept, kept_map
from evaluations.evolution.source import COMPUTED_IN, Source, check_before_ranks, first_namm, load_source, policy_of
from evaluations.evolution.stages import StagedFitness
from evaluations.evolution.tracking import EvolutionTracker
from evaluations.evolution.watch import PAGE, Watch
from namm.errors import CheckpointError, ConfigError
from namm.evolution.checkpoint import STATE_FILE, held
from namm.evolution.history import read_rows
from namm.evolution.loop import EvolutionResult, evolve
from namm.evolution.ranks import Ranks, joined
from namm.files import write_atomically
from namm.typed import Origin, check_fields, read_json, typed

__all__ = ["SEARCHES", "EvolveConfig", "load_source", "main", "preset_config", "run"]

FREE = frozenset({"out", "generations", "stages", "data", "templates", "threads", "device", "wandb", "pictures_every"})
"""Settings that may differ when a run is continued; stages may differ in the length of the last."""

PLAIN: Mapping[str, Any] = MappingProxyType({"markup": False, "highlight": False, "soft_wrap": True})
"""How lines are printed: as they are."""

RESUME = "nothing is lost, the same command continues."
"""Said to whoever interrupts before there is more to say."""


def run(config: EvolveConfig, console: Console | None = None, ranks: Ranks | None = None) -> EvolutionResult:
    """Runs an evolution, or what is left of it, and saves the NAMM.

    Args:
        config: What to run.
        console: Where progress goes; silent by default.
        ranks: The processes that share it; this one alone by default.

    Raises:
        NammError: A setting or a checkpoint is wrong.
        KeyboardInterrupt: Stopped; the same call continues.
    """
    ranks = ranks or Ranks()
    if config.threads:
        torch.set_num_threads(config.threads)
    if ranks.leads:
        _check_continued(config)
    search, course = config.search(), config.course()
    source = Source.load(config, course)
    namm = first_namm(config, course, source, ranks)
    parts = [source.judge(config, stage, namm) for stage in course]
    fitness = StagedFitness([(part, part.validate) for part in parts], search)
    if not ranks.leads:
        return evolve(fitness, namm.flat.cpu(), search, config.out, ranks=ranks)
    with held(config.out):  # refused before anything there is changed
        pass
    plain = json.loads(json.dumps({**asdict(config), "weights": source.weights}, default=str))
    _check_weights(config, plain["weights"])
    write_atomically(config.out / "recipe.json", json.dumps(plain, indent=2) + "\n")

    def draw(mean: Float[Tensor, " params"], title: str, path: Path) -> None:
        stage = course[search.stage(int(path.stem.rpartition("-")[2])) - 1]
        contexts = source.contexts(config, stage)
        policy = policy_of(config, namm, mean, max(map(len, contexts)))
        draw_kept(kept_map(source.model, policy, contexts), max(map(len, contexts)), title, path)

    with EvolutionTracker(config.wandb, config.out, plain, _recorded(config.out)) as tracker:
        watch = Watch(config.out, search, namm, tracker, draw, config.pictures_every, console)
        try:
            result = evolve(
                fitness, namm.flat.cpu(), search, config.out, validate=fitness.validate, callback=watch, ranks=ranks
            )
        except BaseException:
            with suppress(OSError):  # what stopped the run is what has to be told
                watch.page(running=False)
            raise
        watch.page(running=False)
        watch.save(result, config.out / "namm", "deployed")
    return result


def _recorded(folder: Path) -> list[dict[str, Any]]:
    """The rows of the generations that a continued run keeps."""
    if not (folder / STATE_FILE).exists():
        return []
    return read_rows(folder)[: EvolutionResult.load(folder).generation]


def _check_continued(config: EvolveConfig) -> None:
    """A run is continued with what it was started with.

    Raises:
        ConfigError: The folder holds a run with other settings.
    """
    path = config.out / "recipe.json"
    if not (config.out / STATE_FILE).exists() or not path.exists():
        return
    earlier = typed(read_json(path), dict, "the settings", Origin(str(path), CheckpointError, "restore it"))
    mine = json.loads(json.dumps(asdict(config), default=str))
    for settings in (earlier, mine):
        settings |= {f"fitness.{name}": value for name, value in settings.pop("fitness", {}).items()}
    differ = [name for name in mine if name not in FREE and name in earlier and earlier[name] != mine[name]]
    if len(earlier.get("stages", ())) == len(mine["stages"]):
        names = [[text.rpartition(":")[0] for text in settings["stages"]] for settings in (earlier, mine)]
        differ += ["stages"] if names[0] != names[1] or earlier["stages"][:-1] != mine["stages"][:-1] else []
    else:
        differ.append("stages")
    if differ:
        changes = ", ".join(f"{name} {earlier.get(name)!r} (now {mine[name]!r})" for name in differ)
        raise ConfigError(
            f"{config.out}: expected the settings of the run it holds, found others: {changes}; repeat its settings, "
            "or choose another folder with --out."
        )


def _check_weights(config: EvolveConfig, weights: list[dict[str, Any]]) -> None:
    """A run is continued on the weights it was started on, computed alike: a name may have come to mean others.

    Raises:
        ConfigError: The folder holds a run on other weights.
    """
    path = config.out / "recipe.json"
    if not (config.out / STATE_FILE).exists() or not path.exists():
        return
    told = typed(read_json(path), dict, "the settings", Origin(str(path), CheckpointError, "restore it"))
    # runs of before did not say; later ones not in which type they were computed, which was the one that they asked for
    asked = {COMPUTED_IN: "bfloat16" if told.get("bfloat16", True) else "float32"}
    earlier = [{**asked, **each} for each in told["weights"]] if "weights" in told else weights
    if earlier != weights:
        raise ConfigError(
            f"{config.out}: expected the weights that its run was started on, {earlier}, found {weights} under the "
            "same name; pass the folder or the Hub id of those weights (computed in another type: --no-bfloat16, or a "
            "machine like the first), or choose another folder with --out."
        )


@dataclass(frozen=True)
class _Named:
    """What decides the defaults of everything else."""

    preset: str = "fast"
    data: Path | None = None
    stages: tuple[str, ...] = ()
    generations: int | None = None


@dataclass(frozen=True)
class _Command:
    """Everything that the command line says."""

    config: Annotated[EvolveConfig, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")]


def _parse(argv: Sequence[str] | None) -> tuple[EvolveConfig, Launch]:
    """The command line over the preset that it names, and the processes that are to do it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    said = [name for name in arguments if name not in ("--help", "-h")]
    named, _ = tyro.cli(_Named, args=said, return_unknown_args=True, add_help=False)
    given = {name: getattr(named, name) for name in ("data", "stages", "generations") if getattr(named, name)}
    default = _Command(preset_config(named.preset, **given), Launch())
    about = (__doc__ or "").partition("\n\n")[0]
    command = tyro.cli(_Command, args=arguments, default=default, description=about, prog="namm-evolve")
    for options in (command.config.fitness, command.config, command.launch):  # the first are named without "fitness."
        check_fields(options)
    return command.config, command.launch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""

    def work() -> None:
        config, launch = _parse(argv)
        if not launch.needed:
            _evolve(config)
            return
        check_before_ranks(config, launch.ranks)
        _check_continued(config)
        launch.run(_evolve, config, resume=RESUME)

    return exit_code(work, RESUME)


def _evolve(config: EvolveConfig) -> None:
    """Evolves as the rank that the environment says, or alone, with the leader telling of it."""
    from transformers.utils.logging import disable_progress_bar

    with joined() as ranks:
        console = Console() if ranks.leads else None
        if console is None:
            disable_progress_bar()
        else:
            again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
            began = f"A rank died: all are started again, time {again}, from the last generation. " if again else ""
            parts = -(-config.population // config.part)
            idle = f"{ranks.size} ranks share {parts} parts: in a new run a smaller --part gives work to all. "
            began += idle if ranks.size > parts else ""
            console.print(f"{began}Watch {config.out / PAGE} in a browser.", **PLAIN)
        result = run(config, console, ranks)
    if console is not None:
        score = f"{result.best_score:+.3f}" if result.best_score is not None else "not validated"
        said = f"Saved {config.out / 'namm'} (generation {result.best_generation}, validation {score})."
        console.print(said, **PLAIN)


if __name__ == "__main__":
    sys.exit(main())
