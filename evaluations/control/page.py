"""report.html of a control experiment: what is shown of it, in order, and the sections that only control has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evaluations.analysis.summary import TargetSummary
from evaluations.control import memory_section
from evaluations.report.page import targets, write_report
from evaluations.report.sections import comparison, curves, frame, target
from evaluations.report.sections.base import Animation, Page, Report, Section, TargetPart, head, table
from evaluations.rows.file import Row

LEAD = (
    "A Neural Attention Memory Model evolved on text, attached without any change to Decision Transformers: what it "
    "keeps in their KV cache, what that costs, and how every rival does with the same memory."
)
READING = (
    "<b>native window</b> re-encodes the newest steps the model was trained with at every step: it is how the model is "
    "meant to be used, and holds no cache. <b>full</b> keeps every token in the cache. Neither was asked to forget.",
    "Slots count tokens per KV head; bytes are those really allocated for keys and values, per episode. The state a "
    "policy keeps about each token (a NAMM's spectra, H2O's sums) is its own column.",
    "Budgeted policies get the smallest budget whose mean size over NAMM's own episode lengths is not below NAMM's, so "
    "they never hold less on average unless their episodes run shorter.",
    "An interval of no width means that all scores were equal, not that the value is known; [–] means that one score "
    "tells no interval. docs/statistics.md defines every number: units, strata, tests, corrections, and what is chosen "
    "on what.",
    "Intervals are over episodes of one trained checkpoint. They do not cover training the checkpoint, or evolving the "
    "NAMM, again.",
    "Feature statistics: <b>source</b> are frozen from the text the NAMM was evolved on, <b>target</b> are "
    "re-estimated on the target without labels or rewards, <b>sequence</b> come from each sequence alone.",
)


def page_of(command: str, config: Mapping[str, Any], animations: Mapping[str, Animation] | None = None) -> Page:
    """What goes into the report beside the rows."""
    return Page("NAMM on control", command, config, animations or {}, reading=READING)


def write_page(path: Path, rows: Sequence[Row], page: Page, summaries: Sequence[TargetSummary] | None = None) -> Path:
    """Writes the report and returns its path."""
    return write_report(path, rows, page, SECTIONS, summaries)


def opening(report: Report) -> str:
    """Title, what is shown, how much of it, and whether it is finished."""
    rows = report.rows
    interval = ", ".join(sorted({str(row["identity"].get("interval")) for row in rows} - {"None"}))
    facts = (
        ("targets", len(report.targets)),
        ("policies", len({row["policy"] for row in rows})),
        ("seeds", len({row["seed"] for row in rows})),
        ("episodes", sum(len(row["episodes"]) for row in rows)),
        ("update interval", f"{interval or '–'} tokens"),
    )
    return frame.header(report, LEAD, facts)


def episodes(report: Report, target: TargetSummary) -> str:
    """Every episode of every policy, folded away."""
    del report
    names = ("reset_seed", "return", "normalised_score", "success", "length", "slots_mean", "slots_peak")
    lines = []
    for policy in target.policies:
        for row in policy.rows:
            for episode in row["episodes"]:
                cells = "".join(f"<td>{_short(episode.get(name))}</td>" for name in names)
                lines.append(f"<tr><th scope='row'>{escape(policy.policy)}</th><td>{row['seed']}</td>{cells}</tr>")
    heads = [head(name.replace("_", " ")) for name in ("policy", "seed", *names)]
    shown = table(heads, lines, tall=True)
    return f"<details><summary>All {len(lines)} episodes</summary>{shown}</details>"


PARTS: tuple[TargetPart, ...] = (
    target.scores,
    curves.numbers,
    target.memory,
    memory_section.retention,
    memory_section.cues,
    target.animation,
    episodes,
)
"""What is shown of every target, in order."""


def every_target(report: Report) -> str:
    """Every target with all its parts, foldable."""
    return targets(report, PARTS)


SECTIONS: tuple[Section, ...] = (
    opening,
    comparison.overview,
    comparison.aggregate,
    curves.curves,
    every_target,
    frame.making,
)
"""The page, from top to bottom."""


def _short(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))
