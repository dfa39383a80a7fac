"""What a terminal shows of a text experiment: one line a policy, one column a task, and what may be concluded.

All tables and intervals are in summary.md and in the report.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluations.analysis.comparison import compare
from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.analysis.verdicts import Note, notes
from evaluations.report.comparison_tables import rich_table, said

COLUMNS = 8
"""Tasks of one table; more make another."""


def show(targets: Sequence[TargetSummary], console: Console) -> None:
    """Prints scores by task, and all tasks together last: that is where a terminal ends up."""
    for start in range(0, len(targets), COLUMNS):
        console.print(_scores(targets[start : start + COLUMNS]))
    for target in targets:
        for note in _warnings(target):
            _say(target.target, note, console)
    comparison = compare(targets)
    if len(comparison.targets) > 1:
        console.print(rich_table(comparison))
        for note in said(comparison):
            _say("", note, console)
    else:
        for target in targets:
            for note in notes(target):
                _say("", note, console)


def _scores(targets: Sequence[TargetSummary]) -> Table:
    """Mean scores, references first, then NAMMs, then the rivals from best to worst; in brackets what was kept."""
    table = Table(title="score (kept %)", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for target in targets:
        table.add_column(target.target.rpartition("/")[2], justify="right", overflow="fold")
    found: dict[str, list[PolicySummary]] = {}
    for target in targets:
        for policy in target.policies:
            found.setdefault(policy.policy, []).append(policy)

    def order(name: str) -> tuple[bool, bool, float]:
        policies = found[name]
        return not policies[0].is_reference, not policies[0].is_namm, -sum(p.score.value for p in policies)

    for name in sorted(found, key=order):
        style = "bold" if found[name][0].is_namm else "dim" if found[name][0].is_reference else None
        table.add_row(name, *(_cell(target, target.get(name)) for target in targets), style=style)
    return table


def _cell(target: TargetSummary, policy: PolicySummary | None) -> str:
    if policy is None:
        return "–"
    kept = policy.metric("kept_fraction") or 0.0
    return f"{policy.score.value:.{target.digits}f} ({100 * kept:.0f})"


def _warnings(target: TargetSummary) -> list[Note]:
    """Of the warnings on a task those that say a number is not what it seems; who leads where is in the report."""
    said = [f"{p.policy} was asked to forget and evicted nothing: read it as full." for p in target.policies]
    return [note for note in notes(target) if note[1] in said]


def _say(name: str, note: Note, console: Console) -> None:
    kind, text = note
    start = f"{name}: " if name else ""
    console.print(f"  {'!' if kind == 'warning' else '·'} {start}{text}", markup=False, soft_wrap=True)
