"""One target: its scores, what they say, the memory behind them, and every episode."""

from __future__ import annotations

import base64
from html import escape

from evaluations import figures
from evaluations.sections.base import Report, head, listed, picture, row_class, table, typeset
from evaluations.summary import PolicySummary, TargetSummary, notes
from evaluations.tables import KEPT, MEMORY, SCORE, cell_text, columns_of


def scores(report: Report, target: TargetSummary) -> str:
    """Score table, notes and the picture of both."""
    del report
    best = target.best_namm
    anchor = f" Rivals' budgets are matched to the mean size of <b>{escape(best.policy)}</b>." if best else ""
    lead = (
        f"<p>Mean over {target.policies[0].episodes} episodes a policy with 95% intervals; every policy plays the same "
        f"reset seeds.{anchor}</p>"
    )
    drawn = picture(figures.scores(target), f"{target.target}scores")
    return f"{lead}{_table(target, SCORE)}{listed(notes(target))}{drawn}"


def memory(report: Report, target: TargetSummary) -> str:
    """Sizes, bytes and what is kept, as a table and as pictures."""
    del report
    best = target.best_namm
    rivals = [p for p in target.policies if not p.is_namm and not p.is_reference]
    others = sorted(rivals, key=lambda p: p.policy != "window")[:2]  # the window, and the best of the rest
    chosen = [p for p in (best, *others) if p is not None]
    mapped = [row for p in chosen for row in p.rows if row.get("trace")]
    pictures = (
        (
            "sizes",
            figures.sizes(target),
            "Memory per KV head while one episode runs (the full cache, which only grows, is left out).",
        ),
        (
            "kinds",
            figures.kinds(target),
            "Share of the tokens seen so far that was held, averaged over the episode. A Decision Transformer reads "
            "three tokens a step: return-to-go R, state s, action a.",
        ),
        (
            "ages",
            figures.ages(chosen),
            "How old the held tokens are, layer by layer (mean over heads and episodes).",
        ),
        (
            "survival",
            figures.survival(mapped),
            "One episode: a column is a token, time runs down, bright is held by all layers and heads. A policy that "
            "remembers shows vertical streaks; a window shows only the diagonal.",
        ),
    )
    drawn = "".join(picture(figure, f"{target.target}{name}", caption) for name, figure, caption in pictures)
    return f"{_table(target, MEMORY, KEPT)}{drawn}"


def animation(report: Report, target: TargetSummary) -> str:
    """One episode as it went."""
    shown = report.page.animations.get(target.target)
    if shown is None or not shown.path.exists():
        return ""
    data = base64.b64encode(shown.path.read_bytes()).decode()
    return (
        f"<figure class='animation'><img alt='{escape(shown.caption)}' src='data:image/gif;base64,{data}'>"
        f"<figcaption>{escape(shown.caption)}</figcaption></figure>"
    )


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


def _table(target: TargetSummary, *groups: str) -> str:
    columns = [column for group in groups for column in columns_of(target, group)]
    lines = []
    for policy in target.policies:
        flag = _flag(policy) if SCORE in groups else ""
        values = [typeset(escape(cell_text(column, policy))) for column in columns]
        cells = "".join(f"<td>{v.replace('[', '<small>[').replace(']', ']</small>')}</td>" for v in values)
        lines.append(f"<tr{row_class(policy)}><th scope='row'>{escape(policy.policy)}{flag}</th>{cells}</tr>")
    return table([head("policy"), *(head(c.title, c.help) for c in columns)], lines, "; ".join(groups))


def _flag(policy: PolicySummary) -> str:
    return " <span class='flag'>evicted nothing</span>" if policy.kept_everything else ""


def _short(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))
