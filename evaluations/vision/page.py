"""report.html of a video experiment: the sections that all have where they fit, and its own where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.report.page import targets, write_report
from evaluations.report.sections import comparison, curves, frame, target
from evaluations.report.sections.base import Page, Report, head, interval, row_class, table
from evaluations.report.tables import KEPT, MEMORY
from evaluations.rows.file import Row
from evaluations.rows.trials import trials
from evaluations.vision import filmstrip
from evaluations.vision.breakdown import Part, by_age, by_kind

LEAD = (
    "A Neural Attention Memory Model that was trained on text alone decides what a video-language model keeps of the "
    "frames it has seen: what that costs, and how every rival does with the same memory on the same questions."
)
READING = (
    "Slots count tokens per KV head when the question comes, after all frames have passed; bytes are those really "
    "allocated for keys and values then.",
    "<b>full</b> keeps every token and was not asked to forget. Rivals get the smallest budget whose mean size over "
    "the same questions is not below the NAMM's.",
    "<b>relevance</b> and <b>redundancy</b> keep the frames that a CLIP of open_clip finds best: the cosine to the "
    "question, and one minus the cosine to the frame before. Relevance knows the question before the first frame "
    "passes, which no other policy does. <b>frame_selection</b> gives the language model only the frames that are most "
    "relevant, no fewer tokens than the NAMM held, and keeps all of them.",
    "ρ is Spearman's rank correlation over the frames of a clip between the share of a frame's slots that was held and "
    "what the CLIP says of it, mean over questions.",
    "An answer that names nothing, or several options, is wrong; nobody guesses for it. Questions that could not be "
    "asked are listed and not scored.",
    "Of mlvu the plain mean over its seven tasks is what its makers call M-Avg.",
    "Intervals are 95%, over questions, of one model and one NAMM; questions about one clip are drawn together.",
)


def page_of(command: str, config: Mapping[str, Any]) -> Page:
    """What goes into the report beside the rows."""
    return Page("NAMM on video", command, config, reading=READING)


def write_page(path: Path, rows: Sequence[Row], summaries: Sequence[TargetSummary], page: Page) -> Path:
    """Writes the report and returns its path."""
    return write_report(path, rows, page, SECTIONS, summaries)


def opening(report: Report) -> str:
    """Title, what is shown, and how much of it."""
    rows = report.rows
    policies = len({row["policy"] for row in rows})
    compared = [row for row in rows if row["policy"] == rows[0]["policy"] and row["memory"]["role"] != "curve"]
    facts = (
        ("model", ", ".join(sorted({row["identity"]["model"] for row in rows}))),
        ("tasks", len({row["task"] for row in rows})),
        ("policies", policies),
        ("questions a policy", sum(len(trials(row)) for row in compared)),
        ("update interval", ", ".join(sorted({f"{row['identity']['interval']} tokens" for row in rows}))),
    )
    return frame.header(report, LEAD, facts)


def kinds(report: Report, summary: TargetSummary) -> str:
    """Accuracy by kind of question."""
    del report
    return _parts(summary, by_kind, "accuracy % by kind of question")


def ages(report: Report, summary: TargetSummary) -> str:
    """Accuracy by how long ago the evidence was seen."""
    del report
    return _parts(summary, by_age, "accuracy % by frames seen since the evidence")


def memory(report: Report, summary: TargetSummary) -> str:
    """Sizes, bytes, what was kept, and time by its parts."""
    del report
    return target.numbers(summary, MEMORY, KEPT)


def words(report: Report, summary: TargetSummary) -> str:
    """How much was kept of frames, by the words that fit them best."""
    del report
    told = [(policy, policy.rows[0].get("words") or {}) for policy in summary.policies if policy.policy != "full"]
    names = sorted({name for _, found in told for name in found})
    if not names:
        return ""
    lines = []
    for policy, found in told:
        cells = "".join(
            f"<td title='{found[name][1]} frames'>{100 * found[name][0]:.0f}</td>" if name in found else "<td>–</td>"
            for name in names
        )
        lines.append(f"<tr{row_class(policy)}><th scope='row'>{escape(policy.policy)}</th>{cells}</tr>")
    shown = table([head("policy"), *(head(name) for name in names)], lines, "% kept of frames that a CLIP calls so")
    return f"<details><summary>What was kept, in words</summary>{shown}</details>"


def failed(report: Report, summary: TargetSummary) -> str:
    """Questions that could not be asked."""
    del report
    rows = [row for policy in summary.policies for row in policy.rows]
    found = {one["id"]: one["error"] for row in rows for one in row.get("failed") or ()}
    if not found:
        return ""
    lines = [f"<tr><th scope='row'>{escape(name)}</th><td>{escape(error)}</td></tr>" for name, error in found.items()]
    shown = table([head("question"), head("why")], lines, tall=True)
    return f"<details><summary>{len(found)} questions that could not be asked, not scored</summary>{shown}</details>"


def _parts(summary: TargetSummary, parted: Callable[[PolicySummary], list[Part]], caption: str) -> str:
    found = [(policy, {part.name: part for part in parted(policy)}) for policy in summary.policies]
    names = list(dict.fromkeys(name for _, parts in found for name in parts))
    if not names:
        return ""
    heads = [head("policy"), *(head(f"{name} ({_count(found, name)})", "questions in brackets") for name in names)]
    lines = []
    for policy, parts in found:
        cells = "".join(f"<td>{interval(parts[name].score) if name in parts else '–'}</td>" for name in names)
        lines.append(f"<tr{row_class(policy)}><th scope='row'>{escape(policy.policy)}</th>{cells}</tr>")
    return table(heads, lines, caption)


def _count(found: Sequence[tuple[PolicySummary, Mapping[str, Part]]], name: str) -> int:
    return max(parts[name].count for _, parts in found if name in parts)


def tasks(report: Report) -> str:
    """Every task with all its parts, foldable."""
    return targets(report, (target.scores, curves.numbers, ages, kinds, memory, words, failed))


SECTIONS = (opening, comparison.overview, comparison.aggregate, curves.curves, filmstrip.section, tasks, frame.making)
"""The page, from top to bottom."""
