"""results/<name>/report.html: one self-contained page that shows an experiment to somebody who was not there.

Everything is inside the file (styles, pictures, animation), nothing is fetched, and it follows the reader's light or
dark setting. It is made from finished rows alone, so it can be made again at any time, also of a run that was
interrupted.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from evaluations import figures
from evaluations.estimates import Estimate
from evaluations.harness import Row, write_atomically
from evaluations.summary import PolicySummary, TargetSummary, across_targets, notes, summarise
from evaluations.tables import KEPT, MEMORY, SCORE, cell_text, columns_of


@dataclass(frozen=True)
class Animation:
    """A GIF of one episode, with what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Page:
    """What goes into a report besides the rows."""

    title: str
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    animations: Mapping[str, Animation] = field(default_factory=dict)
    """By target."""
    unfinished: int = 0
    """Cells that have no row yet."""


def write_report(path: Path, rows: Sequence[Row], page: Page) -> Path:
    """Writes the report of some rows atomically and returns its path."""
    write_atomically(path, render(rows, page))
    return path


def render(rows: Sequence[Row], page: Page) -> str:
    """The page as text."""
    targets = summarise(rows)
    style = resources.files("evaluations").joinpath("report.css").read_text("utf-8")
    sections = "".join(_target_section(target, page.animations.get(target.target)) for target in targets)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(page.title)}</title><style>{style}</style></head><body><main>"
        f"{_head(targets, rows, page)}{_overall(targets)}{sections}{_foot(rows, page)}</main></body></html>\n"
    )


def _head(targets: Sequence[TargetSummary], rows: Sequence[Row], page: Page) -> str:
    episodes = sum(len(row["episodes"]) for row in rows)
    policies = {row["policy"] for row in rows}
    seeds = {row["seed"] for row in rows}
    interval = ", ".join(sorted({str(row["identity"].get("interval")) for row in rows} - {"None"}))
    lead = (
        "A Neural Attention Memory Model evolved on text, attached without any change to Decision Transformers: what "
        "it "
        "keeps in their KV cache, what that costs, and how every rival does with the same memory."
    )
    facts = [
        ("targets", len(targets)),
        ("policies", len(policies)),
        ("seeds", len(seeds)),
        ("episodes", episodes),
        ("update interval", f"{interval or '–'} tokens"),
    ]
    tiles = "".join(f"<div class='tile'><b>{escape(str(v))}</b><span>{escape(k)}</span></div>" for k, v in facts)
    unfinished = (
        f"<p class='note warning'>{page.unfinished} cells of this experiment are not finished; run the same command "
        "again."
        "</p>"
        if page.unfinished
        else ""
    )
    return (
        f"<header><h1>{escape(page.title)}</h1><p class='lead'>{lead}</p><div class='tiles'>{tiles}</div></header>"
        f"{unfinished}"
    )


def _overall(targets: Sequence[TargetSummary]) -> str:
    found = across_targets(targets) if len(targets) > 1 else {}
    if not found:
        return ""
    ranked = sorted(found.items(), key=lambda item: -item[1][0].value)
    lines = "".join(
        f"<tr{_row_class(targets[0].get(name))}><th scope='row'>{escape(name)}</th><td>{interval(mean)}</td>"
        f"<td>{interval(middle)}</td>"
        + "".join(f"<td>{target.get(name).score.value:.1f}</td>" for target in targets)
        + "</tr>"
        for name, (mean, middle) in ranked
    )
    heads = "".join(f"<th>{escape(target.target)}</th>" for target in targets)
    return (
        "<section><h2>Across targets</h2><p>Scores are percentages, targets weigh the same. The interquartile mean "
        "drops the best and the worst quarter of the episodes: it is steadier but hides rare failures, so both are "
        "shown."
        f"</p><div class='scroll'><table><thead><tr><th>policy</th><th>mean [95%]</th><th>interquartile mean [95%]</th>"
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _target_section(target: TargetSummary, animation: Animation | None) -> str:
    best = target.best_namm
    anchor = f" Rivals' budgets are matched to the mean size of <b>{escape(best.policy)}</b>." if best else ""
    said = "".join(f"<li class='{kind}'>{escape(text)}</li>" for kind, text in notes(target))
    rivals = [p for p in target.policies if not p.is_namm and not p.is_reference]
    others = sorted(rivals, key=lambda p: p.policy != "window")[:2]  # the window, and the best of the rest
    chosen = [p for p in (best, *others) if p is not None]
    mapped = [row for p in chosen for row in p.rows if row.get("trace")]
    salt = "".join(letter for letter in target.target if letter.isalnum())
    pictures = [
        ("", figures.scores(target)),
        (
            "Memory per KV head while one episode runs (the full cache, which only grows, is left out).",
            figures.sizes(target),
        ),
        (
            "Share of the tokens seen so far that was held, averaged over the episode. A Decision Transformer reads "
            "three tokens a step: return-to-go R, state s, action a.",
            figures.kinds(target),
        ),
        ("How old the held tokens are, layer by layer (mean over heads and episodes).", figures.ages(chosen)),
        (
            "One episode: a column is a token, time runs down, bright is held by all layers and heads. A policy that "
            "remembers shows vertical streaks; a window shows only the diagonal.",
            figures.survival(mapped),
        ),
    ]
    drawn = "".join(
        f"<figure>{figures.svg(figure, f'{salt}{number}')}<figcaption>{caption}</figcaption></figure>"
        for number, (caption, figure) in enumerate(pictures)
    )
    head = f"<h2>{escape(target.target)} <small>{escape(target.task)}</small></h2>"
    lead = (
        f"<p>Mean over {target.policies[0].episodes} episodes a policy with 95% intervals; every policy plays the same "
        f"reset seeds.{anchor}</p>"
    )
    tables = f"{_table(target, SCORE)}<ul class='notes'>{said}</ul>{_table(target, MEMORY, KEPT)}"
    return f"<section>{head}{lead}{tables}{drawn}{_animated(animation)}{_episodes(target)}</section>"


def _table(target: TargetSummary, *groups: str) -> str:
    columns = [column for group in groups for column in columns_of(target, group)]
    heads = "".join(f"<th title='{escape(c.help)}'>{escape(_typeset(c.title))}</th>" for c in columns)
    lines = []
    for policy in target.policies:
        flag = _flag(policy) if SCORE in groups else ""
        values = [_typeset(escape(cell_text(column, policy))) for column in columns]
        cells = "".join(f"<td>{v.replace('[', '<small>[').replace(']', ']</small>')}</td>" for v in values)
        lines.append(f"<tr{_row_class(policy)}><th scope='row'>{escape(policy.policy)}{flag}</th>{cells}</tr>")
    caption = escape("; ".join(groups))
    return (
        f"<div class='scroll'><table><caption>{caption}</caption><thead><tr><th>policy</th>{heads}</tr>"
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _typeset(text: str) -> str:
    """Real minus and times signs."""
    return text.replace(" - ", " − ").replace("-", "−").replace(" x100", " ×100")


def _episodes(target: TargetSummary) -> str:
    names = ("reset_seed", "return", "normalised_score", "success", "length", "slots_mean", "slots_peak")
    lines = []
    for policy in target.policies:
        for row in policy.rows:
            for episode in row["episodes"]:
                cells = "".join(f"<td>{_short(episode.get(name))}</td>" for name in names)
                lines.append(f"<tr><th scope='row'>{escape(policy.policy)}</th><td>{row['seed']}</td>{cells}</tr>")
    heads = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("policy", "seed", *names))
    return (
        f"<details><summary>All {len(lines)} episodes</summary><div class='scroll tall'><table><thead><tr>{heads}</tr>"
        f"</thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _animated(animation: Animation | None) -> str:
    if animation is None or not animation.path.exists():
        return ""
    data = base64.b64encode(animation.path.read_bytes()).decode()
    return (
        f"<figure class='animation'><img alt='{escape(animation.caption)}' src='data:image/gif;base64,{data}'>"
        f"<figcaption>{escape(animation.caption)}</figcaption></figure>"
    )


def _foot(rows: Sequence[Row], page: Page) -> str:
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row["versions"].items():
            versions.setdefault(name, set()).add(value)
    listed = "".join(
        f"<tr><th>{escape(k)}</th><td>{escape(', '.join(sorted(v)))}</td></tr>" for k, v in versions.items()
    )
    config = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in page.config.items())
    checksums = {
        f"{name.removesuffix('_sha256')} ({row['target']})" if name.startswith("checkpoint") else "namm": str(value)[
            :16
        ]
        for row in rows
        for name, value in row["identity"].items()
        if name.endswith("_sha256") and value
    }
    sums = "".join(f"<tr><th>{escape(k)}</th><td><code>{escape(v)}…</code></td></tr>" for k, v in checksums.items())
    command = (
        f"<p>Made by <code>{escape(page.command)}</code>; the same command continues or shows it again.</p>"
        if page.command
        else ""
    )
    return (
        f"<section><h2>How this was made</h2>{command}<div class='pair'>"
        f"<div class='scroll'><table><caption>versions</caption><tbody>{listed}</tbody></table></div>"
        f"<div class='scroll'><table><caption>checkpoints (SHA-256)</caption><tbody>{sums}</tbody></table></div></div>"
        "<details><summary>Settings</summary><div "
        f"class='scroll'><table><tbody>{config}</tbody></table></div></details>"
        f"<ul class='notes'>{''.join(f'<li class=note>{text}</li>' for text in READING)}</ul></section>"
    )


def interval(estimate: Estimate, digits: int = 1) -> str:
    """Value and interval as HTML."""
    return f"{estimate.value:.{digits}f} <small>[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]</small>"


def _row_class(policy: PolicySummary | None) -> str:
    if policy is None or not (policy.is_namm or policy.is_reference):
        return ""
    return " class='namm'" if policy.is_namm else " class='reference'"


def _flag(policy: PolicySummary) -> str:
    return " <span class='flag'>evicted nothing</span>" if policy.kept_everything else ""


def _short(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))


READING = (
    "<b>native window</b> re-encodes the newest steps the model was trained with at every step: it is how the model is "
    "meant to be used, and holds no cache. <b>full</b> keeps every token in the cache. Neither was asked to forget.",
    "Slots count tokens per KV head; bytes are those really allocated for keys and values, per episode. The state a "
    "policy "
    "keeps about each token (a NAMM's spectra, H2O's sums) is its own column.",
    "Budgeted policies get the smallest budget whose mean size over NAMM's own episode lengths is not below NAMM's, so "
    "they never hold less on average unless their episodes run shorter.",
    "Intervals are over episodes of one trained checkpoint. They do not cover training the checkpoint, or evolving the "
    "NAMM, again.",
    "Feature statistics: <b>source</b> are frozen from the text the NAMM was evolved on, <b>target</b> are "
    "re-estimated on "
    "the target without labels or rewards, <b>sequence</b> come from each sequence alone.",
)
