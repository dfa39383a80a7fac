"""results/<name>/report.html: one self-contained page that shows an experiment to somebody who was not there.

Everything is inside the file (styles, pictures, animation), nothing is fetched, and it follows the reader's light or
dark setting. It is made from finished rows alone, so it can be made again at any time, also of a run that was
interrupted. What it shows is a list of sections (evaluations/report/sections/), which each kind of experiment names in
its own `page.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from evaluations.analysis.summary import TargetSummary, summarise
from evaluations.report.sections import target
from evaluations.report.sections.base import Animation, Page, Report, Section, TargetPart, identifier
from evaluations.rows.results import Row
from namm.files import write_atomically

__all__ = ["Animation", "Page", "Report", "Section", "TargetPart", "render", "targets", "write_report"]

OPEN = 3
"""More targets than this start folded."""


def write_report(
    path: Path,
    rows: Sequence[Row],
    page: Page,
    sections: Sequence[Section],
    summaries: Sequence[TargetSummary] | None = None,
) -> Path:
    """Writes the report of some rows atomically and returns its path; see `render`."""
    write_atomically(path, render(rows, page, sections, summaries))
    return path


def render(
    rows: Sequence[Row],
    page: Page,
    sections: Sequence[Section],
    summaries: Sequence[TargetSummary] | None = None,
) -> str:
    """The page as text.

    Args:
        rows: All rows of the experiment.
        page: What goes into it besides.
        sections: From top to bottom.
        summaries: Of the rows; by default one a target.
    """
    report = Report(rows, page, tuple(summarise(rows) if summaries is None else summaries))
    style = styled("evaluations.report", "report.css")
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(page.title)}</title><style>{style}</style></head><body><main>"
        f"{''.join(section(report) for section in sections)}</main></body></html>\n"
    )


def styled(package: str, name: str) -> str:
    """The style of a page: what all pages have in common, then its own.

    Args:
        package: Where its own lies.
        name: Of that file.
    """
    own = resources.files(package).joinpath(name).read_text("utf-8")
    return resources.files("evaluations.report").joinpath("theme.css").read_text("utf-8") + own


def targets(report: Report, parts: Sequence[TargetPart]) -> str:
    """Every target with all its parts, foldable."""
    unfolded = " open" if len(report.targets) <= OPEN else ""
    return "".join(_target(report, summary, parts, unfolded) for summary in report.targets)


def _target(report: Report, summary: TargetSummary, parts: Sequence[TargetPart], unfolded: str) -> str:
    shown = "".join(part(report, summary) for part in parts)
    name, told = escape(summary.target), escape(target.headline(summary))
    head = f"<h2>{name} <small>{escape(summary.setting)}</small></h2><p>{told}</p>"
    return (
        f"<section id='{identifier(summary.target)}' class='target'><details{unfolded}><summary>{head}</summary>{shown}"
        "</details></section>"
    )
