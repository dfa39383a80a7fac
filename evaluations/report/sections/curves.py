"""Score against cache size, for all targets in one section, and each target's numbers in its own."""

from __future__ import annotations

from html import escape

from evaluations.analysis.curves import target_curves
from evaluations.analysis.summary import TargetSummary
from evaluations.report import curve_figures
from evaluations.report.curve_tables import caption, heads, lines
from evaluations.report.sections.base import Report, head, picture, small, table


def curves(report: Report) -> str:
    """Curves of all targets, and their mean at equal shares of the full cache."""
    found = target_curves(report.rows, report.targets)
    if not found:
        return ""
    budgets = max(len(curve.points) for target in found for curve in target.curves)
    seeds = set().union(*(target.seeds for target in found))
    drawn = picture(
        curve_figures.by_target(found),
        "curves",
        "Points are budgets, at the mean number of slots really held (drawn slightly apart); bars are 95% intervals. "
        "Bands are the native window (dashed) and the full cache (solid line) over all seeds. A diamond is a NAMM that "
        "decided its size itself; on a curve its threshold is ignored and the budget alone decides, as for its rivals.",
    )
    mean = curve_figures.together(found)
    if mean is not None:
        drawn += picture(
            mean,
            "curvesmean",
            "Mean over targets at the same share of the full cache, straight lines between budgets, 95% bands. On the "
            "left raw scores; on the right relative to the native window (the full cache where a model has none), "
            "which weighs targets of small scores more.",
        )
    return (
        f"<section><h2>Score against cache size</h2><p>Every policy that forgets at up to {budgets} budgets, on "
        f"the same {found[0].summary.described.shared} (seed {', '.join(map(str, sorted(seeds)))}).</p>{drawn}"
        "</section>"
    )


def numbers(report: Report, target: TargetSummary) -> str:
    """Area under each curve of one target, and the size that reaches the reference."""
    found = next(iter(target_curves(report.rows, [target])), None)
    if found is None:
        return ""
    rows = []
    for curve, cells in lines(found):
        kind = " class='namm'" if curve.is_namm else ""
        values = "".join(f"<td>{small(escape(cell))}</td>" for cell in cells[1:])
        rows.append(f"<tr{kind}><th scope='row'>{escape(curve.policy)}</th>{values}</tr>")
    return table([head(*pair) for pair in heads(found)], rows, f"{caption(found)} (95% intervals)")
