"""The numbers of a target's curves as rows of text, for a terminal, for Markdown and for the report."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluations.analysis.curves import SHARE, Curve, TargetCurves, area, size_needed
from evaluations.analysis.estimates import Estimate


def heads(found: TargetCurves) -> list[tuple[str, str]]:
    """Titles of the columns and what they mean."""
    titles = [
        ("policy", ""),
        ("budgets", "points of the curve"),
        ("area", "mean score over the logarithm of the size, between the sizes that all policies cover"),
    ]
    if found.reference is not None:
        title = f"slots for {100 * SHARE:.0f}% of {found.reference.policy}"
        titles.append((title, "smallest mean size at which the curve reaches that share of its score"))
    return titles


def lines(found: TargetCurves) -> list[tuple[Curve, list[str]]]:
    """Every curve with the text of its cells, the largest area first."""
    ranked = list(found.curves)
    if (common := found.common) is not None:
        ranked.sort(key=lambda curve: -area(curve, common).value)
    return [(curve, _cells(found, curve)) for curve in ranked]


def caption(found: TargetCurves) -> str:
    """What the table is, with the sizes over which areas are taken."""
    covered = f", {found.common[0]:.0f} to {found.common[1]:.0f} slots" if found.common else ""
    return f"score against cache size{covered}"


def rich_table(found: TargetCurves) -> Table:
    """For a terminal."""
    title = f"{found.summary.target}: {caption(found)}"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for title, _ in heads(found)[1:]:
        table.add_column(title, justify="right", overflow="fold")
    for curve, cells in lines(found):
        table.add_row(*cells, style="bold" if curve.is_namm else None)
    return table


def markdown(found: TargetCurves) -> str:
    """As a Markdown table, and every point below it."""
    titles = [title for title, _ in heads(found)]
    rows = [f"| {' | '.join(cells)} |" for _, cells in lines(found)]
    points = [f"- {curve.policy}: {', '.join(_point(curve))}" for curve in found.curves]
    head = [
        f"#### {found.summary.target}: {caption(found)}",
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
    ]
    return "\n".join([*head, *rows, "", "Points as mean slots: score [95% interval].", "", *points]) + "\n"


def _cells(found: TargetCurves, curve: Curve) -> list[str]:
    cells = [curve.policy, str(len(curve.points))]
    under = area(curve, found.common) if found.common else None
    cells.append("–" if under is None else under.text())
    reference = found.reference
    return cells if reference is None else [*cells, _size(size_needed(curve, reference), curve)]


def _size(needed: Estimate | None, curve: Curve) -> str:
    """A size outside what was measured is a bound."""
    if needed is None:
        return "–"
    least, most = curve.slots[0], curve.slots[-1]

    def told(value: float) -> str:
        if math.isinf(value):
            return f"> {most:.0f}"
        return f"≤ {least:.0f}" if value <= least else f"{value:.0f}"

    return f"{told(needed.value)} [{told(needed.low)}, {told(needed.high)}]"


def _point(curve: Curve) -> list[str]:
    scores = [point.score for point in curve.points]
    return [f"{slots:.0f}: {score.text()}" for slots, score in zip(curve.slots, scores, strict=True)]
