"""All targets together."""

from __future__ import annotations

from html import escape

from evaluations.sections.base import Report, head, interval, row_class, table
from evaluations.summary import across_targets


def aggregate(report: Report) -> str:
    """Mean and interquartile mean over targets that weigh the same."""
    targets = report.targets
    found = across_targets(targets) if len(targets) > 1 else {}
    if not found:
        return ""
    ranked = sorted(found.items(), key=lambda item: -item[1][0].value)
    lines = [
        f"<tr{row_class(targets[0].get(name))}><th scope='row'>{escape(name)}</th><td>{interval(mean)}</td>"
        f"<td>{interval(middle)}</td>"
        + "".join(f"<td>{target.get(name).score.value:.1f}</td>" for target in targets)
        + "</tr>"
        for name, (mean, middle) in ranked
    ]
    heads = ["policy", "mean [95%]", "interquartile mean [95%]", *(target.target for target in targets)]
    return (
        "<section><h2>Across targets</h2><p>Scores are percentages, targets weigh the same. The interquartile mean "
        "drops the best and the worst quarter of the episodes: it is steadier but hides rare failures, so both are "
        f"shown.</p>{table(map(head, heads), lines)}</section>"
    )
