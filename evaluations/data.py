"""Looks into offline data and converts it, between D4RL's HDF5 files and Minari datasets, without losing a bit.

    namm-data info hopper_medium-v2.hdf5                        what is in a file, a D4RL set or a Minari dataset
    namm-data to-minari hopper_medium-v2.hdf5 d4rl/hopper/medium-v2
    namm-data to-d4rl mujoco/hopper/medium-v0 hopper.hdf5

A source is a file, a D4RL name, a Minari id (fetched where it is not local) or the folder of a Minari dataset. Numbers
keep their precision. What exists is replaced only with --overwrite, and only when what replaces it is whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from evaluations.commands.exit import exit_code
from evaluations.tasks import register_all
from evaluations.tasks.control import d4rl, d4rl_package
from evaluations.tasks.control.comparability import comparability
from evaluations.tasks.control.d4rl import D4RLTask, OfflineDataset
from evaluations.tasks.control.d4rl_files import write_hdf5
from evaluations.tasks.control.find import open_dataset
from evaluations.tasks.control.minari_files import write_minari
from modalities.control.facts import reference_pair
from namm.errors import ConfigError, UnknownNameError
from namm.typed import Origin

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]


@dataclass(frozen=True)
class Info:
    """Shows what is in it: episodes, returns, how they end, states, scores, and what looks wrong."""

    source: Source
    """HDF5 file, D4RL name, Minari id or folder."""


@dataclass(frozen=True)
class ToMinari:
    """Makes a Minari dataset of it, below $MINARI_DATASETS_PATH."""

    source: Source
    """HDF5 file or D4RL name."""

    dataset_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]
    """Of the new dataset: namespace/name-v0."""

    env: str | None = None
    """Gymnasium id stored with it. Default: what the source says or its D4RL name means (hopper: Hopper-v4)."""

    reference: tuple[float, float] | None = None
    """Return of a random and of an expert policy. Default: what the source says, else D4RL's for the environment."""

    overwrite: bool = False
    """Replace a dataset of that name."""


@dataclass(frozen=True)
class ToD4RL:
    """Makes an HDF5 file in D4RL's schema (v2) of it."""

    source: Source
    """Minari id or folder."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The new file, ending in .hdf5 or .h5."""

    overwrite: bool = False
    """Replace a file of that name."""


Command = (
    Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[ToMinari, tyro.conf.subcommand("to-minari")]
    | Annotated[ToD4RL, tyro.conf.subcommand("to-d4rl")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        parse: Any = tyro.cli
        command = parse(Command, args=arguments, description=(__doc__ or "").partition("\n\n")[0], prog="namm-data")
        console = Console() if sys.stdout.isatty() else Console(width=120)
        register_all()
        {Info: info, ToMinari: to_minari, ToD4RL: to_d4rl}[type(command)](command, console)

    return exit_code(work, "nothing was written; the same command does it again.")


def info(command: Info, console: Console) -> None:
    """Prints what a dataset holds; of a D4RL set that is not on this machine, what is known without it.

    Raises:
        DataError: There is no such data, or it is damaged.
    """
    task = d4rl.find_task(command.source)
    here = Path(command.source).exists() or (task and (d4rl_package.cache_folder() / task.file).is_file())
    if task is not None and not here:
        _print(console, f"D4RL {task.name}, without its data", _known(task))
        return
    dataset = open_dataset(command.source, dtype=None)
    _print(console, f"{dataset.kind} {dataset.name}", _described(dataset))
    for remark in dataset.remarks:
        console.print(f"  ! {remark}", markup=False, soft_wrap=True)


def to_minari(command: ToMinari, console: Console) -> None:
    """Converts to a Minari dataset.

    Raises:
        DataError: The source is missing or damaged, or the dataset exists.
        UnknownNameError: The environment is not known.
    """
    dataset = open_dataset(command.source, dtype=None)
    env_id = command.env or dataset.env_id
    reference = None if command.reference is None else reference_pair(*command.reference, Origin("--reference"))
    reference = reference or dataset.reference_scores
    if reference is None and env_id is not None:
        try:
            reference = d4rl.reference_scores(env_id)
        except UnknownNameError:  # only D4RL's own tasks have scores
            reference = None
    description = f"Converted from {dataset.kind} {Path(dataset.name).name} by namm-data"
    write_minari(command.dataset_id, dataset.episodes, env_id, reference, description, command.overwrite)
    _said(console, dataset, f"Minari dataset {command.dataset_id}")
    if env_id is None:
        console.print("  ! no environment is stored with it; --env names one", markup=False)
    if reference is None:
        console.print("  ! no reference scores are stored with it; --reference gives them", markup=False)


def to_d4rl(command: ToD4RL, console: Console) -> None:
    """Converts to a D4RL file.

    Raises:
        ConfigError: The file's name is not one of HDF5, or it exists.
        DataError: The source is missing or damaged.
    """
    if command.file.suffix not in (".hdf5", ".h5"):
        raise ConfigError(f"expected a name ending in .hdf5 or .h5, found {command.file}; rename it")
    if command.file.exists() and not command.overwrite:
        raise ConfigError(f"expected no file at {command.file}, found one; choose another name or pass --overwrite")
    dataset = open_dataset(command.source, dtype=None)
    lowest, highest = dataset.reference_scores or (None, None)
    attributes = {"env_id": dataset.env_id, "ref_min_score": lowest, "ref_max_score": highest}
    write_hdf5(command.file, dataset.episodes, dtype=None, attributes=attributes)
    _said(console, dataset, str(command.file))


def _known(task: D4RLTask) -> dict[str, object]:
    scores = _scores(d4rl.reference_scores(task.name), None)
    facts = {"file": f"not here: {task.url}", "environment": task.env_id, "longest": f"{task.steps} steps", **scores}
    published = d4rl.has_published_statistics(task.name)
    return facts | (_states(d4rl.published_statistics(task.name)) if published else {})


def _described(dataset: OfflineDataset) -> dict[str, object]:
    episodes = dataset.episodes
    lengths = np.array([len(episode.rewards) for episode in episodes])
    if not episodes:
        return {"episodes": "none is complete", "left out": f"{dataset.left_out} steps of unfinished episodes"}
    returns = np.array([episode.total for episode in episodes])
    first = episodes[0]
    ended, out = sum(e.terminated for e in episodes), sum(e.timed_out for e in episodes)
    verdict = comparability(dataset.env_id) if dataset.env_id else None
    environment = dataset.env_id if verdict is None else f"{dataset.env_id} (scores {verdict.sentence})"
    return {
        "environment": environment,
        "episodes": f"{len(episodes)}, {lengths.sum()} steps",
        "left out": f"{dataset.left_out} steps of unfinished episodes" if dataset.left_out else None,
        "length": f"{lengths.mean():.1f}, from {lengths.min()} to {lengths.max()}",
        "ends": f"{ended} by themselves, {out} out of time",
        "return": f"{returns.mean():.2f} ± {returns.std():.2f}, from {returns.min():.2f} to {returns.max():.2f}",
        **_scores(dataset.reference_scores, float(returns.mean())),
        "actions": f"{first.actions.shape[1]} numbers ({first.actions.dtype})",
        "states": f"{first.observations.shape[1]} numbers ({first.observations.dtype})",
        **_states(d4rl.state_statistics(episodes)),
    }


def _scores(reference: tuple[float, float] | None, mean: float | None) -> dict[str, object]:
    if reference is None:
        return {"reference scores": "none known"}
    score = None if mean is None else f"{d4rl.normalised_score(mean, reference):.2f} on average"
    return {"reference scores": f"random {reference[0]:g}, expert {reference[1]:g}", "score x100": score}


def _states(statistics: d4rl.StateStatistics) -> dict[str, object]:
    return {
        "state mean": " ".join(f"{value:.4g}" for value in statistics.mean),
        "state deviation": " ".join(f"{value:.4g}" for value in statistics.std),
    }


def _print(console: Console, title: str, lines: dict[str, object]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column("what", no_wrap=True, style="dim")
    table.add_column("value", overflow="fold")
    for name, value in lines.items():
        if value is not None:
            table.add_row(name, str(value))
    console.print(table)


def _said(console: Console, dataset: OfflineDataset, where: str) -> None:
    steps = sum(len(episode.rewards) for episode in dataset.episodes)
    left_out = f", {dataset.left_out} steps of unfinished episodes left out" if dataset.left_out else ""
    console.print(f"{len(dataset.episodes)} episodes, {steps} steps{left_out}: {where}", markup=False, soft_wrap=True)
    for remark in dataset.remarks:
        console.print(f"  ! {remark}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
