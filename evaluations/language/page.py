"""report.html of a text experiment: the sections that control has where they fit, and its own where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evaluations.analysis.summary import TargetSummary, target_name
from evaluations.language import examples
from evaluations.report.page import targets, write_report
from evaluations.report.sections import comparison, frame, target
from evaluations.report.sections.base import Page, Report, head, table
from evaluations.report.tables import KEPT, MEMORY
from evaluations.rows.file import Row
from evaluations.rows.trials import trials

LEAD = (
    "A Neural Attention Memory Model decides what a language model keeps in its KV cache: what that costs, and how "
    "every rival does with the same memory on the same prompts."
)
READING = (
    "Slots count tokens per KV head when the question comes; bytes are those really allocated for keys and values "
    "then, per prompt, and at the peak of a batch. The state a policy keeps about each token is its own column.",
    "<b>full</b> keeps every token and was not asked to forget. Rivals get the smallest budget whose mean size over "
    "the same prompts is not below the NAMM's; <b>@heads</b> gives one as much as the NAMM in each layer and head.",
    "Every token passes through the evicting cache, also those whose likelihood is scored. Answers are greedy.",
    "The mean over tasks is raw; “% of reference” is the normalised mean of the paper, the mean over tasks of the "
    "score divided by the full cache's. Tasks with tiny full-cache scores dominate the second, so read both.",
    "Intervals are over prompts, of one model and one NAMM. Prompts that are about one document are drawn together, "
    "and in a paired test their signs flip together.",
    "[–] means that one score tells no interval. docs/statistics.md defines every number, docs/text.md the protocol.",
)
ANSWERS = 60
"""Prompts of a policy whose scores are listed."""


def named(rows: Sequence[Row]) -> Callable[[Row], str]:
    """What to call the target of a row: its task; with context length and interval where a task has several of them."""
    told = {(row["task"], *_condition(row)) for row in rows}
    tasks = [name for name, *_ in told]
    several = {name for name in tasks if tasks.count(name) > 1}
    models = {target_name(row).removesuffix(f"/{row['task']}") for row in rows}

    def name(row: Row) -> str:
        tokens, interval, question, answers = _condition(row)
        length = f", {tokens} tokens" if tokens else ""
        asked = ", question before" * (question == "before") + ", likelihood" * (answers == "likelihood")
        condition = f"{length}, interval {interval}{asked}" if row["task"] in several else ""
        return f"{target_name(row) if len(models) > 1 else row['task']}{condition}"

    return name


def page_of(command: str, config: Mapping[str, Any]) -> Page:
    """What goes into the report beside the rows."""
    return Page("NAMM on text", command, config, reading=READING)


def write_page(path: Path, rows: Sequence[Row], summaries: Sequence[TargetSummary], page: Page) -> Path:
    """Writes the report and returns its path."""
    return write_report(path, rows, page, SECTIONS, summaries)


def opening(report: Report) -> str:
    """Title, what is shown, and how much of it."""
    rows = report.rows
    interval = ", ".join(sorted({str(row["identity"]["interval"]) for row in rows}))
    models = ", ".join(sorted({target_name(row).removesuffix(f"/{row['task']}") for row in rows}))
    facts = (
        ("model", models),
        ("tasks", len({row["task"] for row in rows})),
        ("policies", len({row["policy"] for row in rows})),
        ("prompts a policy", sum(len(trials(row)) for row in rows) // max(1, len({row["policy"] for row in rows}))),
        ("update interval", f"{interval} tokens"),
    )
    return frame.header(report, LEAD, facts)


def memory(report: Report, summary: TargetSummary) -> str:
    """Sizes, bytes and times, and what each layer and head held."""
    del report
    lines = []
    for policy in summary.policies:
        held = policy.rows[0]["metrics"]["head_slots"]
        cells = "".join(f"<td>{' · '.join(f'{slots:.0f}' for slots in layer)}</td>" for layer in held)
        lines.append(f"<tr><th scope='row'>{escape(policy.policy)}</th>{cells}</tr>")
    layers = len(summary.policies[0].rows[0]["metrics"]["head_slots"])
    heads = table([head("policy"), *(head(f"layer {layer}") for layer in range(layers))], lines, "slots by KV head")
    folded = f"<details><summary>Slots by layer and KV head</summary>{heads}</details>"
    return f"{target.numbers(summary, MEMORY, KEPT)}{folded}"


def prompts(report: Report, summary: TargetSummary) -> str:
    """The score of every prompt under every policy, folded away."""
    del report
    ids = [str(trial["id"]) for trial in trials(summary.policies[0].rows[0])][:ANSWERS]
    lines = []
    for policy in summary.policies:
        scored = {str(trial["id"]): trial["score"] for row in reversed(policy.rows) for trial in trials(row)}
        cells = "".join(f"<td>{scored[name]:.3g}</td>" if name in scored else "<td>–</td>" for name in ids)
        lines.append(f"<tr><th scope='row'>{escape(policy.policy)}</th>{cells}</tr>")
    shown = table([head("policy"), *(head(name) for name in ids)], lines)
    return f"<details><summary>Scores of {len(ids)} prompts</summary>{shown}</details>"


def tasks(report: Report) -> str:
    """Every task with all its parts, foldable."""
    return targets(report, (target.scores, memory, prompts))


SECTIONS = (opening, comparison.overview, comparison.aggregate, examples.section, tasks, frame.making)
"""The page, from top to bottom."""


def _condition(row: Row) -> tuple[int, int, str, str]:
    told = row["identity"]
    return told.get("context_tokens", 0), told["interval"], told.get("question", "after"), told.get("answers", "")
