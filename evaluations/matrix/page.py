"""report.html of a transfer experiment: the matrix, what follows from it, score against memory, and every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from evaluations.analysis.matrix import Matrix
from evaluations.matrix.namms import Recipe
from evaluations.report import matrix_figures, matrix_tables
from evaluations.report.page import write_report
from evaluations.report.sections import frame
from evaluations.report.sections.base import Page, Report, head, listed, picture, table
from evaluations.rows.file import Row
from evaluations.rows.trials import trials

LEAD = (
    "Each NAMM, unchanged, on models it has never seen: how much of the full cache's score it keeps from which part of "
    "the tokens, beside every rival of the same size."
)
READING = (
    "A cell is the mean over its column's targets of the score divided by the full cache's on the same trials; of "
    "log-likelihoods it is the likelihood of a token divided by the full cache's. Trials are drawn again for "
    "both together.",
    "Of a size that everybody is given, rivals get a budget, found from the full cache's lengths. A NAMM divides it "
    "over layers and heads as it likes, under a threshold that was found without labels on what is not scored; with "
    "<code>--heads equal</code> it ranks inside the same budget in every head instead (<i>equal heads</i>). Rivals of "
    "<code>--free-rivals</code> have the freedom of a NAMM (<i>one threshold</i>). Kept fractions say what came of it.",
    "Intervals are over trials. A recipe with several runs has one over runs as well (Student's t over the runs, added "
    "in squares): it says what runs of the recipe come to on average. With three runs it is wide, and rightly so; it "
    "may reach beyond 100.",
    "▲ and ▼: clearly ahead of, or behind, the best rival of its size in that column; the paired permutation test and "
    "the interval agree, corrected (Holm) for every comparison of the column. = : not told apart, which is no proof of "
    "being equal. The permutation test holds the runs fixed; the interval does not.",
    "Not in here: training the targets again. Targets inside a column weigh the same.",
)


def write_page(
    path: Path,
    rows: Sequence[Row],
    matrix: Matrix,
    single: Matrix,
    lines: Sequence[Recipe],
    command: str,
    config: Mapping[str, Any],
) -> Path:
    """Writes the report and returns its path.

    Args:
        path: Where to.
        rows: All rows of the experiment.
        matrix: By columns.
        single: The same, with every target by itself.
        lines: Which NAMM is which.
        command: Shown as the way to continue.
        config: Shown.
    """
    page = Page("Transfer", command, config, reading=READING)
    sections = (
        partial(_opening, matrix),
        partial(_matrix, matrix),
        partial(_pareto, matrix),
        partial(_targets, matrix, single),
        partial(_namms, lines),
        frame.making,
    )
    return write_report(path, rows, page, sections, ())


def _opening(matrix: Matrix, report: Report) -> str:
    facts = (
        ("lines", len(matrix.lines)),
        ("columns", len(matrix.columns)),
        ("targets", sum(len(column.targets) for column in matrix.columns)),
        ("trials", sum(len(trials(row)) for row in report.rows)),
    )
    return frame.header(report, LEAD, facts)


def _matrix(matrix: Matrix, report: Report) -> str:
    del report
    said = [("note", text) for text in matrix_tables.sentences(matrix)]
    said += [("warning", f"Left out: {text}.") for text in matrix.left_out]
    return f"<section><h2>The matrix</h2>{matrix_tables.html(matrix)}{listed(said)}</section>"


def _pareto(matrix: Matrix, report: Report) -> str:
    del report
    caption = (
        "Up and to the left is better. Diamonds are NAMMs at the size that everybody was given, stars at the size that "
        "they choose themselves."
    )
    drawn = picture(matrix_figures.pareto(matrix), "pareto", caption)
    return f"<section><h2>Score against memory</h2>{drawn}</section>"


def _targets(matrix: Matrix, single: Matrix, report: Report) -> str:
    """Relative score of every line on every target, and against its memory there."""
    del report
    by_name = {column.name: column for column in single.columns}
    parts = []
    for column in matrix.columns:
        names = [target.rpartition("/")[2] for target in column.targets]
        lines = []
        for _, several in matrix_tables.blocks(matrix):
            for line in several:
                cell = matrix.cell(line, column)
                if cell is not None:
                    values = "".join(f"<td>{_number(cell.by_target.get(target))}</td>" for target in column.targets)
                    kind = " class='namm'" if line.kind == "namm" else ""
                    size = "" if line.share is None else f" <small>{100 * line.share:.0f}%</small>"
                    runs = ", ".join(f"{value:.1f}" for value in cell.by_run.values()) if len(cell.by_run) > 1 else ""
                    lines.append(
                        f"<tr{kind}><th scope='row'>{escape(line.name)}{size}</th>{values}"
                        f"<td>{100 * cell.kept:.0f}</td><td>{cell.bytes / 1024:.0f}</td>"
                        f"<td>{cell.seconds:.2f}</td><td>{runs}</td></tr>"
                    )
        heads = [head(""), *(head(name) for name in names)]
        heads += [head("kept %"), head("KiB", "keys and values of a trial"), head("s", "a trial"), head("each run")]
        own = Matrix(single.lines, tuple(by_name[target] for target in column.targets), single.cells, ())
        drawn = picture(matrix_figures.pareto(own), f"pareto{column.name}") if column.targets else ""
        shown = table(heads, lines) + drawn
        parts.append(f"<details><summary>{escape(column.title)}</summary>{shown}</details>")
    return f"<section><h2>Target by target</h2><p>% of the full cache's score.</p>{''.join(parts)}</section>"


def _namms(lines: Sequence[Recipe], report: Report) -> str:
    """Which NAMM is which."""
    del report
    told = [
        f"<tr><th scope='row'>{escape(line.name)}</th><td>{escape(', '.join(name for name, _ in line.runs))}</td></tr>"
        for line in lines
    ]
    return f"<section><h2>NAMMs</h2>{table([head('line'), head('runs')], told)}</section>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
