"""The final table of an experiment, for a terminal (rich), for a README (Markdown), and for the report.

One list of columns serves all three. A column that no policy has a value for is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluations.analysis.estimates import Estimate
from evaluations.analysis.summary import LOG_LIKELIHOOD, RAW_SCORES, PolicySummary, TargetSummary

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


def _success(policy: PolicySummary) -> Value:
    if policy.success is None:
        return None
    return Estimate(100 * policy.success.value, 100 * policy.success.low, 100 * policy.success.high)


def _normalised(policy: PolicySummary) -> Value:
    return policy.score if policy.score_name == "normalised score" else None


def _interquartile(policy: PolicySummary) -> Value:
    """Of successes and failures it says nothing."""
    return None if policy.success is not None else policy.interquartile


def _versus(policy: PolicySummary) -> Value:
    return None if policy.versus_namm is None else policy.versus_namm.difference


def _p_value(policy: PolicySummary) -> Value:
    return None if policy.versus_namm is None else policy.versus_namm.adjusted


def _other(policy: PolicySummary) -> Value:
    named = policy.score_name in ("normalised score", "success rate", *RAW_SCORES)
    return None if named else policy.score


def _log_likelihood(policy: PolicySummary) -> Value:
    return policy.score if policy.score_name == LOG_LIKELIHOOD else None


SCORE, MEMORY, KEPT = "score", "memory", "what is kept, and time"
GROUPS = (SCORE, MEMORY, KEPT)

P_VALUE = Column(SCORE, "p", "paired permutation test of that difference, Holm-corrected for the rivals", _p_value, 3)
COLUMNS = (
    Column(SCORE, "score x100", "normalised score: 0 is a random policy, 100 an expert", _normalised),
    Column(SCORE, "score", "0 to 100: accuracy, or the benchmark's own metric", _other),
    Column(SCORE, "log-likelihood", "of a token, in nats; larger is better", _log_likelihood, 3),
    Column(SCORE, "token acc. %", "scored tokens that are the model's first choice", _metric("token_accuracy", 100)),
    Column(SCORE, "success %", "episodes that reached the goal, Wilson interval", _success),
    Column(
        SCORE,
        "NAMM - policy",
        "NAMM minus this policy on the same episodes or prompts: the held-out choice, where several variants ran",
        _versus,
    ),
    P_VALUE,
    Column(SCORE, "return", "undiscounted sum of rewards", lambda p: p.returns, 2),
    Column(SCORE, "IQM", "interquartile mean of the score", _interquartile),
    Column(SCORE, "length", "environment steps of an episode", _metric("episode_length"), 0),
    Column(MEMORY, "budget", "slots kept per KV head after an update", lambda p: p.budget, 0),
    Column(
        MEMORY,
        "slots",
        "mean slots per KV head: over an episode, or when a prompt's question comes",
        _metric("slots_mean"),
    ),
    Column(MEMORY, "peak", "largest mean-over-heads number of slots in any episode", _peak("slots_peak"), 0),
    Column(
        MEMORY,
        "KiB",
        "mean bytes of keys and values allocated per episode or prompt",
        _metric("bytes_mean", 1 / 1024),
        0,
    ),
    Column(MEMORY, "peak KiB", "most bytes of keys and values per episode or prompt", _peak("bytes_peak", 1 / 1024), 0),
    Column(
        MEMORY,
        "state KiB",
        "mean bytes the policy keeps per episode or prompt",
        _metric("state_bytes_mean", 1 / 1024),
        0,
    ),
    Column(
        KEPT,
        "kept %",
        "slots held / tokens seen: mean over time, or when the question comes",
        _metric("kept_fraction", 100),
    ),
    Column(KEPT, "R %", "the same for return-to-go tokens", _metric("kept_fraction_R", 100)),
    Column(KEPT, "s %", "the same for state tokens", _metric("kept_fraction_s", 100)),
    Column(KEPT, "a %", "the same for action tokens", _metric("kept_fraction_a", 100)),
    Column(KEPT, "prefill s", "reading all prompts, updates included", _metric("prefill_seconds")),
    Column(KEPT, "decode s", "answering all prompts, updates included", _metric("decode_seconds")),
    Column(KEPT, "updates s", "of both, what the policy's updates took", _metric("policy_seconds")),
    Column(KEPT, "ms/step", "model, memory and policy per environment step", _metric("ms_per_env_step"), 2),
)


def cell_text(column: Column, policy: PolicySummary) -> str:
    """A value as plain text, with its interval where it has one."""
    value = column.get(policy)
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        digits = 3 if policy.score_name == LOG_LIKELIHOOD else column.digits if abs(value.value) < 1000 else 0
        return value.text(digits)
    smallest = 10.0**-column.digits
    return f"<{smallest:g}" if column is P_VALUE and value < smallest else f"{value:.{column.digits}f}"


def columns_of(target: TargetSummary, group: str | None = None) -> list[Column]:
    """The columns (of one group) that have a value for at least one policy."""
    chosen = [column for column in COLUMNS if group is None or column.group == group]
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
        title = f"{target.target} ({target.simulator if group == SCORE else target.task}): {group}"
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
        lines = [f"### {target.target} ({target.simulator})", "", f"| {' | '.join(heads)} |"]
        lines.append(f"|{'---|' * len(heads)}")
        for policy in shown(target, SCORE):
            held_out = target.get(policy.policy) is None
            known = [cell_text(c, policy) if c.group == SCORE or not held_out else "–" for c in columns]
            cells = [policy.policy, *known]
            lines.append(f"| {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"
