"""The comparison over all targets as rows of text, for a terminal, for Markdown and for the report."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluations.analysis.comparison import CONTENDER, Comparison, Entry
from evaluations.analysis.estimates import Estimate
from evaluations.analysis.verdicts import Note, verdicts

HEADS = (
    ("policy", ""),
    ("mean", "mean score, percent, every target weighing the same"),
    ("IQM", "interquartile mean of the seeds' scores: the best and the worst quarter of all (target, seed) left out"),
    ("gap to 100", "optimality gap: by how much the seeds' scores miss 100 on average; smaller is better"),
    (
        "% of reference",
        "normalised mean: of score / score of the native window (the full cache where there is none), over targets",
    ),
    ("kept %", "mean over targets of slots held / slots held by the full cache"),
    ("NAMM - policy", "mean over targets of the paired difference on shared trials"),
    ("p", "permutation test of that difference, signs flipped inside targets, Holm-corrected for the rivals"),
    ("P(better)", "probability that a trial of NAMM scores above one of the policy, mean over targets"),
)
"""Titles of the columns and what they mean."""


def lines(comparison: Comparison) -> list[tuple[Entry, list[str]]]:
    """Every entry with the text of its cells, in the order of `HEADS`."""
    return [(entry, _cells(entry, len(comparison.targets))) for entry in comparison.entries]


def said(comparison: Comparison) -> list[Note]:
    """What may be concluded from it, as (kind, sentence)."""
    found: list[Note] = []
    if comparison.left_out:
        found.append(("note", f"No percentages, and so left out here: {', '.join(comparison.left_out)}."))
    if comparison.contender is None:
        return found
    for group in ("is_reference", "is_rival"):
        members = [entry for entry in comparison.entries if getattr(entry, group)]
        tests = [(_named(entry, len(comparison.targets)), entry.versus_namm) for entry in members]
        found += verdicts(CONTENDER, tests)
    text = (
        "In brackets: NAMM minus the other, mean over targets, paired, with 95% interval and "
        "Holm-corrected p; two are told apart where both agree. This speaks of these targets and checkpoints, not of "
        "others: targets are not resampled."
    )
    return [*found, ("note", text)]


def rich_table(comparison: Comparison) -> Table:
    """For a terminal."""
    title = f"All {len(comparison.targets)} targets"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for title, _ in HEADS[1:]:
        table.add_column(title, justify="right", overflow="fold")
    for entry, cells in lines(comparison):
        table.add_row(*cells, style="bold" if entry.is_namm else "dim" if entry.is_reference else None)
    return table


def markdown(comparison: Comparison) -> str:
    """As a Markdown table under its own heading, with what may be concluded."""
    rows = [f"| {' | '.join(cells)} |" for _, cells in lines(comparison)]
    head = [f"| {' | '.join(title for title, _ in HEADS)} |", f"|{'---|' * len(HEADS)}"]
    concluded = [f"- {text}" for _, text in said(comparison)]
    return "\n".join([f"### All {len(comparison.targets)} targets", "", *head, *rows, "", *concluded]) + "\n"


def _cells(entry: Entry, targets: int) -> list[str]:
    found, test = entry.aggregates, entry.versus_namm
    values: Sequence[Estimate | None] = (
        (found.mean, found.interquartile, found.gap, found.relative) if found else (None,) * 4
    )
    p_value = "–" if test is None or test.adjusted is None else f"{test.adjusted:.3f}"
    return [
        _named(entry, targets),
        *(_text(value) for value in values),
        "–" if found is None or found.kept is None else f"{100 * found.kept:.1f}",
        _text(test.difference if test else None),
        "<0.001" if p_value == "0.000" else p_value,
        _text(entry.improvement, 2),
    ]


def _named(entry: Entry, targets: int) -> str:
    ran = len(entry.by_target)
    return entry.name if ran == targets else f"{entry.name} ({ran}/{targets})"


def _text(value: Estimate | None, digits: int = 1) -> str:
    return "–" if value is None else value.text(digits)
