"""The order of a control experiment: references and NAMM first, then rivals at NAMM's size, then tables and pictures.

One target after the other; after each policy its rows are mirrored, at the end everything is summarised. All state is
in the rows, so running it again over finished rows only draws the pictures again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluations import document, figures
from evaluations.comparability import NOT_COMPARABLE
from evaluations.control_cells import PROTECTED_LAST, ControlRunner, ControlTarget, PolicySpec
from evaluations.harness import Cell, Results, Row, run_cells, versions, write_atomically
from evaluations.matching import Match, match_budget
from evaluations.progress import Display
from evaluations.remembered import memory_picture
from evaluations.replay import animate
from evaluations.report import Animation, Page, write_report
from evaluations.summary import PolicySummary, TargetSummary, summarise
from evaluations.tracking import Media, Tracker
from modalities.control import ControlModel
from namm import NAMM
from namm.errors import DataError


@dataclass(frozen=True)
class ControlExperiment:
    """Policies, seeds and how rivals get their size."""

    specs: Sequence[PolicySpec]
    seeds: Sequence[int]
    interval: int
    budget: int | None = None
    match: str = "best"
    video: bool = True
    namm: NAMM | None = None

    def run(
        self,
        targets: Sequence[tuple[ControlTarget, ControlModel]],
        results: Results,
        tracker: Tracker,
        console: Console,
        command: str,
        config: Mapping[str, Any],
    ) -> Path:
        """Runs what has no row yet and returns the path of the report."""
        known = versions()
        plan = [(target, control, self._specs_of(control)) for target, control in targets]
        rows: list[Row] = []
        with Display(console, total=len(self.seeds) * sum(len(specs) for _, _, specs in plan)) as display:
            for target, control, specs in plan:
                if len(specs) < len(self.specs):
                    display.say(f"{target.name}: trained on whole episodes, so there is no native window to show")
                for remark in target.remarks:
                    display.say(f"{target.name}: {remark}")
                runner = ControlRunner(target, control, self.interval, self.namm, trace_seed=self.seeds[0])
                session = _Session(self, runner, results, tracker, display, known)
                rows += session.run(specs)
        summaries = summarise(rows)
        animations = self._animations(summaries, results.folder, {t.name: t for t, _ in targets}, console)
        write_atomically(results.folder / "summary.md", document.markdown(rows, summaries))
        page = Page("NAMM on control", command, config, animations)
        report = write_report(results.folder / "report.html", rows, page)
        document.show(rows, summaries, console)
        console.print(f"rows    {results.path}\nreport  {report}", markup=False, soft_wrap=True)
        return report

    def _specs_of(self, control: ControlModel) -> list[PolicySpec]:
        has_window = control.facts.context_steps is not None
        return [spec for spec in self.specs if has_window or spec.name != "native_window"]

    def _animations(
        self,
        summaries: Sequence[TargetSummary],
        folder: Path,
        targets: Mapping[str, ControlTarget],
        console: Console,
    ) -> dict[str, Animation]:
        """For the report: the best NAMM's first episode on every target."""
        found: dict[str, Animation] = {}
        for summary in summaries if self.video else ():
            shown = summary.best_namm or summary.policies[0]
            row = next((row for row in shown.rows if row.get("trace")), None)
            path = row and _animation(row, targets[summary.target], folder, console)
            if row and path:
                seed = row["trace"]["reset_seed"]
                caption = f"{shown.policy} on {summary.task}, reset seed {seed}. Below: its memory, bright where held."
                found[summary.target] = Animation(path, caption)
        return found


@dataclass
class _Session:
    """The cells of one target."""

    experiment: ControlExperiment
    runner: ControlRunner
    results: Results
    tracker: Tracker
    display: Display
    versions: Mapping[str, str]

    def run(self, specs: Sequence[PolicySpec]) -> list[Row]:
        """All rows of the target, NAMM before those that are matched to it."""
        first = [spec for spec in specs if not spec.needs_budget]
        rivals = [spec for spec in specs if spec.needs_budget]
        by_policy = {spec: self._policy(spec, self.experiment.budget, None) for spec in first}
        anchor = self._anchor(by_policy) if rivals and self.experiment.budget is None else None
        for spec in rivals:
            if anchor is None:
                by_policy[spec] = self._policy(spec, self.experiment.budget, None)
                continue
            lengths = [episode["length"] for row in anchor.rows for episode in row["episodes"]]
            asked = sum(e["slots_mean"] for row in anchor.rows for e in row["episodes"]) / len(lengths)
            protected = spec.protected_first + PROTECTED_LAST
            match = match_budget(asked, lengths, self.experiment.interval, protected)
            by_policy[spec] = self._policy(spec, match.budget, (anchor.policy, match))
        return [row for spec in specs for row in by_policy[spec]]

    def _anchor(self, by_policy: Mapping[PolicySpec, Sequence[Row]]) -> PolicySummary | None:
        rows = [row for spec, rows in by_policy.items() if spec.name == "namm" for row in rows]
        summary = summarise(rows)[0]
        if self.experiment.match == "best":
            return summary.best_namm
        statistics = self.experiment.match.partition(":")[2]
        return summary.get(PolicySpec("namm", statistics).label)

    def _policy(self, spec: PolicySpec, budget: int | None, match: tuple[str, Match] | None) -> list[Row]:
        budget = None if spec.is_reference else budget
        cells = [self.runner.cell(spec, seed, budget, self.versions) for seed in self.experiment.seeds]

        def play(unfinished: Sequence[Cell]) -> list[dict[str, Any]]:
            self.display.working_on(f"{self.runner.target.name} · {spec.label}")
            played = self.runner.run(spec, unfinished, match)
            how = {"matched_by": "best" if self.experiment.match == "best" else "declared"} if match else {}
            return [{**row, "memory": {**row["memory"], **how}, "versions": dict(self.versions)} for row in played]

        def announce(cell: Cell, row: Row, reused: bool) -> None:
            metrics = row["metrics"]
            how = "kept from an earlier run" if reused else f"{row['seconds']:.1f} s"
            mark = "" if (row.get("comparability") or {}).get("verdict") != NOT_COMPARABLE else f" ({NOT_COMPARABLE})"
            text = f"{row['score_name']} {row['score']:.1f}{mark}, {metrics['slots_mean']:.1f} slots ({how})"
            self.display.finished(cell.label, text)

        rows = run_cells(cells, self.results, play, announce)
        self._mirror(rows)
        return rows

    def _mirror(self, rows: Sequence[Row]) -> None:
        if self.tracker.is_tracked(rows):
            return
        self.display.working_on(f"{rows[0]['target']} · {rows[0]['policy']} · W&B")
        row = next((row for row in rows if row.get("trace")), None)
        media = Media()
        if row is not None:
            folder = _media_folder(self.results.folder)
            picture = folder / f"{_file_name(row)}.png"
            write_atomically(picture, figures.png(memory_picture(row)))
            target = self.runner.target
            video = (
                _animation(row, target, self.results.folder, self.display.console) if self.experiment.video else None
            )
            media = Media(picture, video)
        self.tracker.mirror(rows, media)


def _animation(row: Row, target: ControlTarget, folder: Path, console: Console) -> Path | None:
    """The GIF of a row's traced episode, made once; None, and a line why, where the replay is another episode."""
    path = _media_folder(folder) / f"{_file_name(row)}-{row['key']}.gif"
    if path.exists():
        return path
    try:
        return animate(row, target.env_kwargs, path)
    except DataError as error:
        console.print(f"no animation: {error}", markup=False, soft_wrap=True)
        return None


def _media_folder(folder: Path) -> Path:
    media = folder / "media"
    media.mkdir(exist_ok=True)
    return media


def _file_name(row: Row) -> str:
    name = f"{row['target']}-{row['policy']}"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-")
