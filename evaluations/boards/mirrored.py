"""Plays an experiment beside its mirror in Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from evaluations.boards.wandb_package import Mode
from evaluations.boards.wandb_runs import Tracker
from evaluations.experiment.contract import Media, Plan, Runner, Setup, Unit
from evaluations.experiment.play import play
from evaluations.rows.results import Results, Row


def play_mirrored(
    plans: Sequence[Plan],
    runners: Mapping[str, Runner],
    setup: Setup,
    results: Results,
    console: Console,
    media: Callable[[Unit, Sequence[Row]], Media],
    *,
    mode: Mode,
    workers: int,
    namms: Mapping[str, Path],
) -> list[Row] | None:
    """Runs what has no row yet and returns all rows; None where another process leads.

    Args:
        plans: What is played.
        runners: Of every target, as `setup` loads them.
        setup: What worker processes load.
        results: Where rows go; `config.json` lies there.
        console: Where progress goes.
        media: What is shown of finished rows beside their numbers.
        mode: Of the mirror.
        workers: Processes of this machine.
        namms: Folders of the NAMMs in use, by digest.

    Raises:
        NammError: Something could not be played.
    """
    settings = json.loads((results.folder / "config.json").read_text(encoding="utf-8"))
    with Tracker(mode, results.folder, settings, namms) as tracker:
        for line in tracker.unsaid():
            console.print(line, markup=False, soft_wrap=True)
        rows = play(plans, runners, setup, workers, results, tracker, console, media)
        for line in tracker.unsaid():
            console.print(line, markup=False, soft_wrap=True)
        return rows
