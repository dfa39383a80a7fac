"""Replays finished results into clean Weights & Biases runs: rows are the truth, W&B is a mirror of them.

    namm-sync results/rl                     online where somebody is logged in, else into results/rl/synced
    namm-sync results/ runs/mine             every experiment and evolution in these folders
    namm-sync copy-of-rl --fresh             a copied folder becomes an experiment of its own, with ids of its own

An experiment gets one run a row (target x policy x seed) and one with its transfer matrix, an evolution one run of all
its generations. Ids follow from the experiment and the row, so a replay takes the place of what was mirrored before;
where somebody deleted a run in W&B, which never gives its id again, the next one is used.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from evaluations.boards.experiments import find_folders, read_experiments
from evaluations.boards.replay import Replayed, replay
from evaluations.boards.wandb_package import Mode, open_wandb, project
from evaluations.boards.wandb_runs import SYNCED
from evaluations.commands.exit import exit_code
from evaluations.evolution.replay import replay_evolution
from evaluations.matrix.namms import recipes
from evaluations.rows.file import UnfinishedError
from evaluations.rows.identity import renew_identity
from namm.errors import ConfigError, NammError
from namm.evolution.history import HISTORY_FILE

Work = Callable[[Mode, Callable[[int], object]], Replayed]
"""Replays one folder."""


@dataclass(frozen=True)
class SyncConfig:
    """What `namm-sync` can be told."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of experiments and evolutions, or folders that contain such ones."""

    wandb: Mode = "auto"
    """Where runs go: online, offline (`wandb sync` uploads them later), or auto: online where somebody is logged in."""

    fresh: bool = False
    """Give each experiment a new identity first, so that all its runs get new ids: for a copy of a folder, which else
    has the ids of its original."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        description = (__doc__ or "").partition("\n\n")[0]
        sync(tyro.cli(SyncConfig, args=arguments, description=description, prog="namm-sync"), Console())

    return exit_code(work, "rows are as they were; the same command begins the replay again")


def sync(config: SyncConfig, console: Console) -> list[Replayed]:
    """Replays everything that the folders hold; what cannot be mirrored costs a line each.

    Evolutions come first: the artifacts of their NAMMs are then theirs, and evaluations use them.

    Raises:
        ConfigError: No folder is named, or W&B cannot be used.
        DataError: A folder is not there, or nothing in them can be replayed.
        UnfinishedError: Runs are missing; the others were made.
    """
    _check(config)
    evolutions = find_folders(config.folders, HISTORY_FILE)
    experiments = read_experiments(config.folders) if find_folders(config.folders) or not evolutions else []
    jobs: list[tuple[Path, Work]] = [(folder, partial(replay_evolution, folder)) for folder in evolutions]
    jobs += [
        (experiment.folder, partial(replay, experiment, _namms(experiment.settings))) for experiment in experiments
    ]
    found = []
    for folder, work in jobs:
        with console.status(f"{folder}") as status:
            done = _attempted(folder, config, work, lambda n, f=folder, s=status: s.update(f"{f}: {n}"))
        found.append(done)
        for line in (*done.remarks, _summary(folder, done)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    missing = sum(done.asked - len(done.runs) for done in found)
    if missing:
        raise UnfinishedError(
            f"Expected {sum(done.asked for done in found)} runs, found {missing} that could not be made (see above); "
            "the others are there, and the same command makes all of them anew."
        )
    return found


def _namms(settings: Mapping[str, Any]) -> list[Path]:
    """Folders of the NAMMs that the settings name, by folder, name or pattern, as far as they are still there."""
    told = settings.get("namm")
    found = []
    for written in [told] if isinstance(told, str) else told if isinstance(told, list) else []:
        with suppress(NammError, TypeError):
            found += [folder for recipe in recipes([written]) for _, folder in recipe.runs]
    return found


def _check(config: SyncConfig) -> None:
    if not config.folders:
        raise ConfigError("namm-sync needs at least one folder of results, found none; name what to replay.")
    package, _, notice = open_wandb(config.wandb)
    if package is None:
        raise ConfigError(f"namm-sync needs W&B online or offline, found it disabled; pass --wandb. {notice}".rstrip())


def _attempted(folder: Path, config: SyncConfig, work: Work, progress: Callable[[int], object]) -> Replayed:
    """One folder; what stops it costs a line, and the others are replayed."""
    try:
        if config.fresh:
            renew_identity(folder)
        return work(config.wandb, progress)
    except (NammError, OSError) as error:
        return Replayed((), 1, config.wandb, (f"{folder} is not mirrored: {error}",))


def _summary(folder: Path, done: Replayed) -> str:
    runs = f"{folder}: {len(done.runs)} of {done.asked} runs"
    if not done.runs:
        return runs
    if done.mode == "online":
        return f"{runs} in the project {project()}"
    waiting = f"{shlex.quote(str(folder / SYNCED / 'wandb'))}/offline-run-*"
    return f"{runs} wait offline; upload them with: wandb sync {waiting}"


if __name__ == "__main__":
    sys.exit(main())
