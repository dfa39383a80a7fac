"""The final table of an experiment, for a terminal (rich), for a README (Markdown), and for the report.

One list of columns serves all three. A column that no policy has a value for is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluations.analysis.aggregates import aggregate
from evaluations.analysis.estimates import Estimate, success_rate
from evaluations.analysis.summary import BOOTSTRAP_SEED, PolicySummary, TargetSummary, scaled
from evaluations.rows.trials import UNDESCRIBED, Score, Trials

Value = Estimate | float | None


@dataclass(frozen=True)
class Column:
    """A column: which table it is in, how it is called, what it means, where its value comes from, its digits."""

    group: str
    title: str
    help: str
    get: Callable[[PolicySummary], Value]
    digits: int = 1


def _metric(name: str, scale: float = 1.0) -> Callable[[PolicySummary], Value]:
    def get(policy: PolicySummary) -> Value:
        value = policy.metric(name)
        return None if value is None else value * scale

    return get


def _peak(name: str, scale: float = 1.0) -> Callable[[PolicySummary], Value]:
    def get(policy: PolicySummary) -> Value:
        value = policy.peak(name)
        return None if value is None else value * scale

    return get


def _interquartile(policy: PolicySummary) -> Value:
    """Of successes and failures it says nothing."""
    return None if policy.success is not None else policy.interquartile


def _versus(policy: PolicySummary) -> Value:
    return None if policy.versus_namm is None else policy.versus_namm.difference


def _p_value(policy: PolicySummary) -> Value:
    return None if policy.versus_namm is None else policy.versus_namm.adjusted


def _value(kind: Score) -> Callable[[PolicySummary], Value]:
    """A kind of score: where it is the score itself, and where every trial says it besides."""

    def get(policy: PolicySummary) -> Value:
        if policy.score_kind is kind:
            return policy.score
        if kind.value is None or not all(trial.get(kind.value) is not None for trial in policy.played()):
            return None
        if kind.rate:
            return scaled(success_rate([trial[kind.value] for trial in policy.played()]), 100)
        return aggregate([policy.scores(kind.value)], BOOTSTRAP_SEED)

    return get


SCORE, MEMORY, KEPT = "score", "memory", "what is kept, and time"
GROUPS = (SCORE, MEMORY, KEPT)

P_VALUE = Column(SCORE, "p", "paired permutation test of that difference, Holm-corrected for the rivals", _p_value, 3)
COMPARED = (
    Column(
        SCORE,
        "NAMM - policy",
        "NAMM minus this policy on the same trials: the held-out choice, where several variants ran",
        _versus,
    ),
    P_VALUE,
    Column(SCORE, "IQM", "interquartile mean of the score", _interquartile),
)
HELD = (
    Column(MEMORY, "budget", "slots kept per KV head after an update", lambda p: p.budget, 0),
    Column(MEMORY, "slots", "mean slots per KV head {sized}", _metric("slots_mean")),
    Column(MEMORY, "peak", "largest mean-over-heads number of slots in any {word}", _peak("slots_peak"), 0),
    Column(MEMORY, "KiB", "mean bytes of keys and values allocated per {word}", _metric("bytes_mean", 1 / 1024), 0),
    Column(MEMORY, "peak KiB", "most bytes of keys and values per {word}", _peak("bytes_peak", 1 / 1024), 0),
    Column(MEMORY, "state KiB", "mean bytes the policy keeps per {word}", _metric("state_bytes_mean", 1 / 1024), 0),
    Column(KEPT, "kept %", "slots held / tokens seen, {sized}", _metric("kept_fraction", 100)),
)
"""What all modalities have; their words are put in."""
TABLES = {"score": SCORE, "kept": KEPT}
"""Where a measure of a modality is shown."""


@cache
def columns_for(trials: Trials) -> tuple[Column, ...]:
    """The columns of a modality's tables: its scores, what is compared, what is held, and its own measures."""
    scores = [Column(SCORE, kind.title, kind.help, _value(kind), kind.digits) for kind in (*trials.scores, UNDESCRIBED)]
    own = [Column(TABLES[m.table], m.title, m.help, _metric(m.metric, m.scale), m.digits) for m in trials.measures]
    words = {"word": trials.word, "sized": trials.sized}
    held = [replace(column, help=column.help.format(**words)) for column in HELD]
    found = [*scores, *COMPARED, *held, *own]
    return tuple(sorted(found, key=lambda column: GROUPS.index(column.group)))


def cell_text(column: Column, policy: PolicySummary) -> str:
    """A value as plain text, with its interval where it has one."""
    value = column.get(policy)
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        kind = policy.score_kind
        digits = column.digits if kind.percentage else max(column.digits, kind.digits)
        digits = digits if abs(value.value) < 1000 else 0
        return value.text(digits)
    smallest = 10.0**-column.digits
    return f"<{smallest:g}" if column is P_VALUE and value < smallest else f"{value:.{column.digits}f}"


def columns_of(target: TargetSummary, group: str | None = None) -> list[Column]:
    """The columns (of one group) that have a value for at least one policy."""
    chosen = [column for column in columns_for(target.described) if group is None or column.group == group]
    return [column for column in chosen if any(column.get(policy) is not None for policy in target.policies)]


def shown(target: TargetSummary, group: str) -> list[PolicySummary]:
    """The lines of a table; among scores the cross-fitted NAMM has its own, before the variants it comes from."""
    lines, contender = list(target.policies), target.contender
    if group == SCORE and contender is not None and target.get(contender.policy) is None:
        first = next(place for place, policy in enumerate(lines) if policy.is_namm)
        lines.insert(first, contender)
    return lines


def rich_tables(target: TargetSummary) -> list[Table]:
    """The tables of one target for a terminal, about a hundred columns wide; narrower ones fold."""
    tables = []
    for group in GROUPS:
        title = f"{target.target} ({target.setting if group == SCORE else target.task}): {group}"
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("policy", no_wrap=True)
        columns = columns_of(target, group)
        for column in columns:
            table.add_column(column.title, justify="right", overflow="fold")
        for policy in shown(target, group):
            style = "bold" if policy.is_namm else "dim" if policy.is_reference else None
            table.add_row(policy.policy, *(cell_text(column, policy) for column in columns), style=style)
        tables.append(table)
    return tables


def markdown(targets: Sequence[TargetSummary]) -> str:
    """All targets as Markdown tables."""
    blocks = []
    for target in targets:
        columns = columns_of(target)
        heads = ["policy", *(column.title for column in columns)]
        lines = [f"### {target.target} ({target.setting})", "", f"| {' | '.join(heads)} |"]
        lines.append(f"|{'---|' * len(heads)}")
        for policy in shown(target, SCORE):
            held_out = target.get(policy.policy) is None
            known = [cell_text(c, policy) if c.group == SCORE or not held_out else "–" for c in columns]
            cells = [policy.policy, *known]
            lines.append(f"| {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"
