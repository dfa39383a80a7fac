"""All targets together: the scores side by side, their aggregates, and what may be concluded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from evaluations.analysis.comparison import Entry, compare
from evaluations.analysis.estimates import Estimate
from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.report import comparison_figures as drawings
from evaluations.report.comparison_tables import HEADS, lines, said
from evaluations.report.sections.base import Report, head, identifier, listed, picture, small, table


def overview(report: Report) -> str:
    """Every target in one line: the score of every policy, with its interval under the pointer."""
    targets = report.targets
    if len(targets) < 2:
        return ""
    names = _policies(targets)
    rows = "".join(_overview_line(target, names) for target in targets)
    heads = [head("target"), *(head(name) for name in names)]
    return (
        "<section><h2>Overview</h2><p>Mean score of every policy on every target (percent; raw "
        "returns and log-likelihoods where there is no such scale). The best rival of equal size is underlined; a "
        "rival clearly ahead of NAMM is bold, one clearly behind is grey. Intervals appear under the pointer, details "
        "below.</p>"
        f"{table(heads, [rows])}</section>"
    )


def aggregate(report: Report) -> str:
    """Aggregates over targets, probability of improvement and performance profiles."""
    found = compare(report.targets)
    if len(found.targets) < 2:
        return ""
    rows = "".join(_line(entry, cells) for entry, cells in lines(found))
    drawn = picture(drawings.aggregates(found), "aggregates", "Aggregates over targets and seeds, 95% intervals.")
    if any(entry.improvement for entry in found.entries):
        drawn += picture(
            drawings.improvement(found),
            "improvement",
            "How often a trial of NAMM scores above one of each other policy (ties count half), mean over targets.",
        )
    profiles = drawings.profiles(found)
    if profiles is not None:
        drawn += picture(
            profiles,
            "profiles",
            "Performance profiles: the share of scores above a threshold, mean over targets, with pointwise "
            "95% bands. NAMM is orange in every panel; higher is better, and curves that cross have no one winner.",
        )
    averages = drawings.average_profiles(found)
    if averages is not None:
        drawn += picture(averages, "averages", "The same for targets: the share whose mean is above a threshold.")
    return (
        f"<section><h2>All {len(found.targets)} targets together</h2><p>Scores are percentages (0 random or failure, "
        "100 expert or right) and targets weigh the same. The plain mean is shown beside the interquartile mean, "
        "which is steadier but hides rare failures. Rivals hold the mean size of NAMM; references were not asked "
        "to forget, or (oracle) were shown what is to come.</p>"
        f"{table([head(*pair) for pair in HEADS], [rows])}{listed(said(found))}{drawn}</section>"
    )


def _policies(targets: Sequence[TargetSummary]) -> list[str]:
    """References, NAMM as compared, then the rivals by name; variants are left to the targets' own tables."""
    found = [p for target in targets for p in target.policies]
    references = sorted({p.policy for p in found if p.is_reference}, reverse=True)
    rivals = sorted({p.policy for p in found if p.is_rival})
    namm = ["NAMM"] if any(target.contender for target in targets) else []
    return [*references, *namm, *rivals]


def _overview_line(target: TargetSummary, names: list[str]) -> str:
    best = target.rivals[0].policy if target.rivals else None
    digits = target.digits
    cells = []
    for name in names:
        policy = target.contender if name == "NAMM" else target.get(name)
        if policy is None:
            cells.append("<td>–</td>")
            continue
        kind = "namm" if policy.is_namm else "reference" if policy.is_reference else _standing(policy)
        best_class = " best" if name == best else ""
        shown = f"{policy.score.value:.{digits}f}"
        cells.append(f"<td class='{kind}{best_class}' title='{_spelled(policy.score)}'>{shown}</td>")
    link = f"<a href='#{identifier(target.target)}'>{escape(target.target)}</a>"
    return f"<tr><th scope='row'>{link}</th>{''.join(cells)}</tr>"


def _standing(policy: PolicySummary) -> str:
    test = policy.versus_namm
    if test is None or not test.is_clear:
        return "level"
    return "worse" if test.difference.value > 0 else "better"


def _line(entry: Entry, cells: list[str]) -> str:
    kind = " class='namm'" if entry.is_namm else " class='reference'" if entry.is_reference else ""
    values = "".join(f"<td>{small(escape(cell))}</td>" for cell in cells[1:])
    return f"<tr{kind}><th scope='row'>{escape(cells[0])}</th>{values}</tr>"


def _spelled(estimate: Estimate) -> str:
    return estimate.text()
