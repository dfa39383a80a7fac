"""Plays the plans of an experiment with as many processes as are wanted, in a folder that others may share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from rich.console import Console

from evaluations.commands.progress import Display
from evaluations.experiment.claims import Claims
from evaluations.experiment.contract import Media, Mirror, Plan, Runner, Setup, Unit
from evaluations.experiment.session import Session
from evaluations.experiment.telling import Telling
from evaluations.experiment.workers import ThisProcess, Workers
from evaluations.rows.provenance import made_with
from evaluations.rows.results import Results, Row


def play(
    plans: Sequence[Plan],
    runners: Mapping[str, Runner],
    setup: Setup,
    workers: int,
    results: Results,
    mirror: Mirror,
    console: Console,
    media: Callable[[Unit, Sequence[Row]], Media],
    remarks: Sequence[str] = (),
) -> list[Row] | None:
    """Plays what has no row yet and returns all rows, in the order of the plans.

    Args:
        plans: What is played.
        runners: Of every target, as `setup` loads them.
        setup: What worker processes load.
        workers: Processes of this machine; 1 is this one alone.
        results: Where the rows are; other processes may be adding to them.
        mirror: Shows them elsewhere.
        console: Where the progress goes.
        media: What W&B shows of finished rows beside their numbers.
        remarks: Said first, by the process that leads.

    Returns:
        The rows; None where another process leads the experiment, and draws its report.

    Raises:
        NammError: Something could not be played.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with ExitStack() as stack:
        claims = stack.enter_context(Claims(results.folder))
        display = stack.enter_context(Display(console, sum(plan.most_cells() for plan in plans)))
        local = int(os.environ.get("LOCAL_RANK", "0"))  # torchrun counts the processes that it starts on a machine
        players = stack.enter_context(
            ThisProcess(runners) if workers == 1 else Workers(setup, workers, local * workers, say)
        )
        versions = {modality: made_with(modality) for modality in {runner.modality for runner in runners.values()}}
        telling = Telling(display, mirror, media, claims, versions)
        session = Session(plans, runners, results, claims, players, display, versions, telling)
        if session.lead():
            for remark in remarks:
                say(remark)
        else:
            say(f"Another process leads this experiment in {results.folder}; this one plays cells with it.")
        rows = session.run()
        if not session.lead():
            say("Every cell is finished; the process that leads draws the report.")
            return None
        return rows
