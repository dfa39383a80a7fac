"""One target: its scores, what they say, the memory behind them, and one trial as it went."""

from __future__ import annotations

import base64
from html import escape

from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.analysis.verdicts import notes
from evaluations.report import figures
from evaluations.report.sections.base import Report, head, listed, picture, row_class, small, table
from evaluations.report.tables import KEPT, MEMORY, SCORE, cell_text, columns_of, shown


def headline(target: TargetSummary) -> str:
    """One line that stands for the target while it is folded."""
    best = target.rivals[0] if target.rivals else None
    leading = [p for p in (target.native, target.get("full"), target.contender, best) if p is not None]
    digits = target.digits
    return f"{target.policies[0].score_name}: " + " · ".join(f"{p.policy} {p.score.value:.{digits}f}" for p in leading)


def scores(report: Report, target: TargetSummary) -> str:
    """Score table, notes and the picture of both."""
    del report
    matched = f" Rivals have the mean size of <b>{escape(target.matched_to)}</b>." if target.matched_to else ""
    lead = (
        f"<p>{target.described.plural.capitalize()} a policy: {target.policies[0].trials}, the same for all; means "
        f"with 95% intervals.{matched}</p>"
    )
    drawn = picture(figures.scores(target), f"{target.target}scores")
    return f"{lead}{numbers(target, SCORE)}{listed(notes(target))}{drawn}"


def memory(report: Report, target: TargetSummary) -> str:
    """Sizes, bytes and what is kept as a table, and the size over time."""
    del report
    caption = f"Memory per KV head during one {target.described.word} (the full cache, which only grows, is left out)."
    return f"{numbers(target, MEMORY, KEPT)}{picture(figures.sizes(target), f'{target.target}sizes', caption)}"


def animation(report: Report, target: TargetSummary) -> str:
    """One trial as it went."""
    shown = report.page.animations.get(target.target)
    if shown is None or not shown.path.exists():
        return ""
    data = base64.b64encode(shown.path.read_bytes()).decode()
    return (
        f"<figure class='animation'><img alt='{escape(shown.caption)}' src='data:image/gif;base64,{data}'>"
        f"<figcaption>{escape(shown.caption)}</figcaption></figure>"
    )


def numbers(target: TargetSummary, *groups: str) -> str:
    """The tables of these groups of columns, as one."""
    columns = [column for group in groups for column in columns_of(target, group)]
    lines = []
    for policy in shown(target, groups[0]):
        flag = _flag(policy) if SCORE in groups else ""
        cells = "".join(f"<td>{small(escape(cell_text(column, policy)))}</td>" for column in columns)
        lines.append(f"<tr{row_class(policy)}><th scope='row'>{escape(policy.policy)}{flag}</th>{cells}</tr>")
    return table([head("policy"), *(head(c.title, c.help) for c in columns)], lines, "; ".join(groups))


def _flag(policy: PolicySummary) -> str:
    return " <span class='flag'>evicted nothing</span>" if policy.kept_everything else ""
