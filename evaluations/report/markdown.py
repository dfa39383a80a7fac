"""summary.md and the terminal's closing words: all targets together, then each with its tables, curves and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from evaluations.analysis.comparison import compare
from evaluations.analysis.curves import target_curves
from evaluations.analysis.summary import TargetSummary
from evaluations.analysis.verdicts import Note, notes
from evaluations.report import comparison_tables, curve_tables, tables
from evaluations.rows.results import Row


def markdown(rows: Sequence[Row], targets: Sequence[TargetSummary]) -> str:
    """Everything the report says in words and numbers, without its pictures.

    Args:
        rows: All rows of the experiment; points of curves are among them.
        targets: Their summaries.
    """
    return "\n".join(_blocks(rows, targets))


def show(rows: Sequence[Row], targets: Sequence[TargetSummary], console: Console) -> None:
    """Prints the same, all targets together last: that is where a terminal ends up."""
    curves = {found.summary.target: found for found in target_curves(rows, targets)}
    for target in targets:
        for table in tables.rich_tables(target):
            console.print(table)
        if target.target in curves:
            console.print(curve_tables.rich_table(curves[target.target]))
        _print_notes(notes(target), console)
    comparison = compare(targets)
    if len(comparison.targets) > 1:
        console.print(comparison_tables.rich_table(comparison))
        _print_notes(comparison_tables.said(comparison), console)


def _blocks(rows: Sequence[Row], targets: Sequence[TargetSummary]) -> Iterator[str]:
    comparison = compare(targets)
    if len(comparison.targets) > 1:
        yield comparison_tables.markdown(comparison)
    curves = {found.summary.target: found for found in target_curves(rows, targets)}
    for target in targets:
        yield tables.markdown([target])
        said = notes(target)
        if said:
            yield "".join(f"- {text}\n" for _, text in said)
        if target.target in curves:
            yield curve_tables.markdown(curves[target.target])


def _print_notes(said: Sequence[Note], console: Console) -> None:
    for kind, text in said:
        console.print(f"  {'!' if kind == 'warning' else '·'} {text}", markup=False, soft_wrap=True)
