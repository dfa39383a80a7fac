"""A control experiment from its options to its report: the plans, the processes that play them, tables and pictures.

All state is in the rows, so running it again over finished rows only draws the pictures again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluations.analysis.summary import summarise
from evaluations.boards.wandb_runs import Tracker
from evaluations.control.cells import ControlRunner
from evaluations.control.media import animations, media_of
from evaluations.control.page import page_of, write_page
from evaluations.control.plan import Plan
from evaluations.control.setup import ControlSetup
from evaluations.experiment.contract import Media, Unit
from evaluations.experiment.names import NamedPolicy
from evaluations.experiment.play import play
from evaluations.report import markdown
from evaluations.rows.policy_names import NATIVE
from evaluations.rows.results import Results, Row
from namm.files import write_atomically


@dataclass(frozen=True)
class ControlExperiment:
    """What is compared, and by how many processes of this machine."""

    setup: ControlSetup
    specs: Sequence[NamedPolicy]
    seeds: Sequence[int]
    budget: int | None = None
    match: str = "best"
    curve: int = 0
    curve_seeds: Sequence[int] = ()
    video: bool = True
    workers: int = 1

    def run(
        self,
        runners: Mapping[str, ControlRunner],
        results: Results,
        tracker: Tracker,
        console: Console,
        command: str,
        config: Mapping[str, Any],
    ) -> Path:
        """Runs what has no row yet and returns the path of the report.

        Args:
            runners: Of every target, as `setup` loads them.
            results: Where the rows are; other processes may be adding to them.
            tracker: Mirrors them.
            console: Where the progress goes.
            command: Shown in the report, as the way to continue.
            config: Shown in the report.

        Raises:
            NammError: Something could not be played.
        """

        plans = [self._plan(name, runner) for name, runner in runners.items()]
        remarks = [
            f"{plan.target}: trained on whole episodes, so there is no native window to show"
            for plan in plans
            if len(plan.specs) < len(self.specs)
        ]
        remarks += [f"{name}: {remark}" for name, runner in runners.items() for remark in runner.target.remarks]

        said: set[str] = set()

        def say(line: str) -> None:
            if line not in said:  # what one policy's picture lacks, the others' lack too
                said.add(line)
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        def media(unit: Unit, rows: Sequence[Row]) -> Media:
            return media_of(rows, runners[unit.target].target, results.folder, self.video, say)

        rows = play(plans, runners, self.setup, self.workers, results, tracker, console, media, remarks)
        if rows is None:
            return results.folder / "report.html"
        return self._report(rows, runners, results, console, command, config, say)

    def _plan(self, target: str, runner: ControlRunner) -> Plan:
        has_window = runner.control.facts.context_steps is not None
        return Plan(
            target,
            tuple(spec for spec in self.specs if has_window or spec.label != NATIVE),
            tuple(self.seeds),
            self.setup.interval,
            self.budget,
            self.match,
            self.curve,
            tuple(self.curve_seeds),
        )

    def _report(
        self,
        rows: Sequence[Row],
        runners: Mapping[str, ControlRunner],
        results: Results,
        console: Console,
        command: str,
        config: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> Path:
        summaries = summarise(rows)
        targets = {name: runner.target for name, runner in runners.items()}
        shown = animations(summaries, results.folder, targets, say) if self.video else {}
        write_atomically(results.folder / "summary.md", markdown.markdown(rows, summaries))
        page = page_of(command, config, shown)
        report = write_page(results.folder / "report.html", rows, page, summaries)
        markdown.show(rows, summaries, console)
        say(f"rows    {results.path}\nreport  {report}")
        return report
