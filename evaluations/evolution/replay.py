"""Replays the history of an evolution into one clean Weights & Biases run, however often it was continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluations.boards.replay import Replayed
from evaluations.boards.wandb_package import Mode
from evaluations.boards.wandb_runs import SYNCED
from evaluations.evolution.tracking import EvolutionTracker
from evaluations.evolution.watch import PICTURES, picture_name
from namm.errors import NammError
from namm.evolution.history import read_rows
from namm.evolution.loop import EvolutionResult


def replay_evolution(folder: Path, mode: Mode, progress: Callable[[int], object]) -> Replayed:
    """Makes one run of all generations and of the NAMMs that lie in the folder.

    Args:
        folder: Of the evolution.
        mode: Of W&B.
        progress: Is told how many generations are done.

    Raises:
        CheckpointError: The history is damaged.
        OSError: The folder cannot be written.
    """
    rows = read_rows(folder)
    shutil.rmtree(folder / SYNCED, ignore_errors=True)
    (folder / SYNCED).mkdir()
    with EvolutionTracker(mode, folder, _settings(folder / "recipe.json"), (), anew=True) as tracker:
        for number, row in enumerate(rows if tracker.active else (), start=1):
            picture = folder / PICTURES / picture_name(row["generation"])
            tracker.log(row, picture if picture.exists() else None)
            progress(number)
        generation, score = _best(folder)
        for place in sorted(folder.glob("stage-*")):
            tracker.log_namm(place, None, [place.name], None)
        if (folder / "namm").is_dir():
            tracker.log_namm(folder / "namm", generation, ["deployed"], score)
        made = () if tracker.run_folder is None else (tracker.run_folder,)
    return Replayed(made, 1, tracker.mode, tuple(filter(None, [tracker.notice])))


def _best(folder: Path) -> tuple[int | None, float | None]:
    """The generation of the NAMM in the folder and its validation, where the evolution's state still says it."""
    try:
        result = EvolutionResult.load(folder)
    except NammError:
        return None, None
    return result.best_generation, result.best_score


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
