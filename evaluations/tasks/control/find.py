"""Finds offline data by whatever name a user has for it: a file, a D4RL name, a Minari id, a folder.

A D4RL name means the file in D4RL's cache, else what a working `d4rl` package downloads; where only the states'
statistics are wanted, the published ones of the twelve v2 locomotion sets do without any file.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluations.tasks.control import d4rl, d4rl_package
from evaluations.tasks.control.d4rl import D4RLTask, OfflineDataset
from evaluations.tasks.control.d4rl_files import open_hdf5
from evaluations.tasks.control.minari_files import open_minari
from modalities.control.agents import StateStatistics
from namm.errors import DataError, UnknownNameError

FILES = (".hdf5", ".h5", ".hdf", ".gz", ".pkl", ".pickle")
"""Endings by which a name is taken for that of a file, also where there is none."""


@dataclass(frozen=True)
class DatasetFacts:
    """What a Decision Transformer needs to know of the data that it was trained on."""

    origin: str
    """Where the facts come from."""
    statistics: StateStatistics
    """Mean and deviation of the states."""
    env_id: str | None
    """Environment of the data."""
    reference_scores: tuple[float, float] | None
    """Return of a random and of an expert policy."""
    remarks: tuple[str, ...] = ()
    """What a careful reader should know about the data."""


def open_dataset(name: str, dtype: type[np.floating] | None = np.float32) -> OfflineDataset:
    """The episodes of a D4RL HDF5 file, a D4RL set, or a Minari dataset.

    Args:
        name: A path, a D4RL name ("hopper-medium-v2"), a Minari id or the folder of a Minari dataset.
        dtype: Of the numbers; None keeps what is stored.

    Raises:
        DataError: There is no such data, or it is damaged.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in FILES:
        return open_hdf5(path, dtype)
    task = None if path.is_dir() else d4rl.find_task(name)
    if task is None:
        return open_minari(path if path.is_dir() else name, dtype)
    file = _file_of(task)
    if file is None:
        raise DataError(
            f"expected the file of D4RL's {task.name} at {_place_of(task)}, found none and no working d4rl package; "
            f"put {task.url} there, or pass the path of your file"
        )
    return open_hdf5(file, dtype)


def dataset_facts(name: str) -> DatasetFacts:
    """State statistics, environment and reference scores of a dataset, by the same names.

    Raises:
        DataError: There is no such data and nothing is published about it, or it is damaged.
    """
    path = Path(name).expanduser()
    task = None if path.exists() or path.suffix in FILES else d4rl.find_task(name)
    if task is not None and not _is_fetched(task):
        return published_facts(task)
    dataset = open_dataset(name)
    origin = f"{dataset.kind} {dataset.name}"
    statistics = d4rl.state_statistics(dataset.episodes)
    return DatasetFacts(origin, statistics, dataset.env_id, dataset.reference_scores, dataset.remarks)


def published_facts(task: D4RLTask) -> DatasetFacts:
    """The same of a D4RL set without its file.

    Raises:
        DataError: Its statistics are not published.
    """
    try:
        statistics = d4rl.published_statistics(task.name)
    except UnknownNameError as error:
        raise DataError(
            f"expected the file of D4RL's {task.name} at {_place_of(task)}, found none; statistics of the states are "
            "published only for the v2 sets medium, medium-replay, medium-expert and expert of hopper, halfcheetah and "
            f"walker2d. Put {task.url} there, or pass your file with --dataset"
        ) from error
    origin = f"the published state statistics of D4RL's {task.name}"
    return DatasetFacts(origin, statistics, task.env_id, d4rl.reference_scores(task.name))


def _is_fetched(task: D4RLTask) -> bool:
    """Whether there is a file; a failed download is only a warning where published statistics do as well."""
    try:
        return _file_of(task) is not None
    except DataError as error:
        if not d4rl.has_published_statistics(task.name):
            raise
        warnings.warn(f"{error}; the published statistics are used instead", stacklevel=3)
        return False


def _place_of(task: D4RLTask) -> str:
    return f"{d4rl_package.cache_folder() / task.file} ($D4RL_DATASET_DIR)"


def _file_of(task: D4RLTask) -> Path | None:
    return d4rl_package.dataset_file(task.name, task.file)
