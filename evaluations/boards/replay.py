"""Replays the rows of an experiment into clean Weights & Biases runs, one a row, and one with the transfer matrix.

What was mirrored while an experiment ran may have been interrupted, rescored or deleted, and W&B continues no run that
stayed offline. A row has everything, so all runs are made again from the rows under the ids that they had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from evaluations.boards.experiments import Experiment, media_of, with_shares
from evaluations.boards.matrix_view import MATRIX_COLUMNS, matrix_lines
from evaluations.boards.wandb_package import Mode, reason
from evaluations.boards.wandb_runs import Tracker
from evaluations.experiment.claims import Claims
from evaluations.experiment.telling import MIRROR
from namm import NAMM
from namm.errors import NammError


@dataclass(frozen=True)
class Replayed:
    """What became of one experiment."""

    runs: tuple[Path, ...]
    """Folders of the runs that were made."""
    asked: int
    """How many there should be."""
    mode: Mode
    """Where they went; "disabled" where there is no W&B."""
    remarks: tuple[str, ...]


def replay(experiment: Experiment, folders: Sequence[Path], mode: Mode, progress: Callable[[int], object]) -> Replayed:
    """Makes the run of every row and that of the matrix; what W&B refuses costs that run and a line.

    Args:
        experiment: As it was read.
        folders: Where its NAMMs may lie.
        mode: Of W&B.
        progress: Is told how many rows are done.

    Raises:
        OSError: The folder cannot be written, where the notes of what is mirrored lie.
    """
    namms, remarks = _namms(experiment, folders)
    made: list[str] = []
    with ExitStack() as stack:
        claims = stack.enter_context(Claims(experiment.folder))
        stack.enter_context(claims.held(MIRROR))  # an experiment that still runs mirrors its next rows afterwards
        tracker = stack.enter_context(Tracker(mode, experiment.folder, experiment.settings, namms, anew=True))
        for number, row in enumerate(experiment.rows if tracker.active else (), start=1):
            made += tracker.mirror([row], media_of(experiment.folder, row))
            progress(number)
        try:
            table = tracker.mirror_table("matrix", MATRIX_COLUMNS, matrix_lines(with_shares(experiment)))
            made += [table] if table is not None else []
        except Exception as error:  # rows of others may hold anything; their runs are made
            remarks.append(f"the matrix of {experiment.folder} could not be computed ({reason(error)}).")
    told = (*experiment.remarks, *remarks, *tracker.notices)
    return Replayed(tuple(map(Path, made)), len(experiment.rows) + 1, tracker.mode, told)


def _namms(experiment: Experiment, folders: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """The folder of each NAMM that rows name by its digest, and a line for each that is in none."""
    wanted = dict.fromkeys(digest for row in experiment.rows if (digest := row["identity"].get("namm_sha256")))
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            digest = NAMM.from_pretrained(folder).sha256()
        except (NammError, OSError):
            continue
        if digest in wanted:
            found[digest] = folder
    missing = [digest[:16] for digest in wanted if digest not in found]
    return found, [
        f"the NAMM {digest} is not where the settings of {experiment.folder} say: where W&B is online its runs use the "
        "artifact that its evolution has logged, else none."
        for digest in missing
    ]
