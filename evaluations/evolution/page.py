"""A page that shows an evolution while it runs: one file without scripts, drawn again each generation.

Charts are SVG with a tooltip a point; the browser reloads the page by itself until the run has ended.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from evaluations.evolution.series import AXIS, numbers
from namm.files import write_atomically

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 190, 52, 24
RELOAD_S = 5
COLOURS = ("#b85a06", "#2f6f9f", "#4d8b31", "#8a4fa0")

CHARTS: Sequence[tuple[str, str, Sequence[tuple[str, str]]]] = (
    (
        "Fitness",
        "mean and best of the candidates; validation of the mean, which chooses what is deployed",
        (("fitness_mean", "mean"), ("fitness_best", "best"), ("validation", "validation")),
    ),
    (
        "What it costs",
        "score relative to the full cache, and fraction of tokens kept",
        (
            ("relative_score", "score"),
            ("kept_fraction", "kept"),
            ("validation_relative_score", "score, validation"),
            ("validation_kept_fraction", "kept, validation"),
        ),
    ),
    (
        "Learning or drifting",
        "spread of fitness among candidates, and the part of it that is luck of the prompts",
        (("fitness_std", "spread"), ("fitness_noise", "noise")),
    ),
    ("Signal", "share of the spread that is merit: near 0, ranks are luck", (("signal_share", "signal"),)),
    ("Step size", "sigma of the search", (("sigma", "sigma"),)),
    ("Shape", "longest over shortest axis: 1 means that no shape was learned", (("axis_ratio", "axis ratio"),)),
    ("Mean", "length of the mean, and of its last step", (("mean_norm", "length"), ("step_norm", "step"))),
    ("Time", "seconds a generation", (("seconds", "seconds"),)),
)
STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5d6672; --ground: #fbfaf8; --card: #fff; --line: #e3e1dc }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #9aa3ae; --ground: #14171b; --card: #1b1f24; --line: #2d333a } }
body { margin: 1.2rem; background: var(--ground); color: var(--ink) }
body { font: 15px/1.5 system-ui, 'DejaVu Sans', sans-serif }
h1 { font-size: 1.2rem; margin: 0 } h2 { font-size: 1rem; margin: 0 } p { margin: .1rem 0 .5rem; color: var(--soft) }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); gap: 1rem; margin-top: 1rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem }
.wide { grid-column: 1 / -1 } img { max-width: 100% } .bad { color: #b3261e }
svg { width: 100%; height: auto; display: block } text { fill: var(--soft); font-size: 11px }
.grid { stroke: var(--line) } .key { font-size: .85rem; color: var(--soft) } .key b { font-size: 1.1rem }
"""


def write_page(
    path: Path, title: str, rows: Sequence[Mapping[str, Any]], generations: int, picture: Path | None, running: bool
) -> None:
    """Draws the page.

    Args:
        path: Where it goes; replaced as a whole.
        title: Of the run.
        rows: Of history.jsonl.
        generations: How many there will be.
        picture: PNG of what the mean keeps.
        running: Whether the page reloads itself.
    """
    found = [numbers(row) for row in rows]
    failed = sum(row["failed"] for row in rows)
    left = (generations - len(rows)) * (found[-1]["evolution/seconds"] if found else 0.0)
    state = (
        "running" if running else ("finished" if len(rows) >= generations else "stopped; the same command continues")
    )
    head = f"generation {len(rows)} of {generations}, {state}"
    if running and found:
        head += f", about {_duration(left)} left"
    parts = [
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<meta http-equiv=refresh content={RELOAD_S}>" if running else "",
        f"<title>{escape(title)}: generation {len(rows)}</title><style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{escape(head)}</p>",
        f"<p class=bad>{failed} evaluations of candidates failed; the last: {escape(_last_error(rows))}</p>"
        if failed
        else "",
        f"<p>{escape(_verdict(found))}</p>" if found else "",
        "<main>",
    ]
    ends = [row["generation"] for row, after in pairwise(rows) if row["stage"] != after["stage"]]
    for name, about, series in CHARTS:
        lines = [(label, _points(found, key)) for key, label in series]
        parts.append(f"<section><h2>{name}</h2><p>{about}</p>{_chart(lines, max(generations, 2), ends)}</section>")
    if picture is not None and picture.exists():
        data = base64.b64encode(picture.read_bytes()).decode()
        about = f"after generation {int(picture.stem.rpartition('-')[2])}"
        parts.append(
            f"<section class=wide><h2>What the mean keeps</h2><p>{about}: kept fraction by position, layer and head</p>"
            f"<img alt='kept fraction by position' src='data:image/png;base64,{data}'></section>"
        )
    parts.append("</main></html>")
    write_atomically(path, "\n".join(part for part in parts if part) + "\n")


def _points(found: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    return [(row[AXIS], row[f"evolution/{key}"]) for row in found if f"evolution/{key}" in row]


def _verdict(found: Sequence[Mapping[str, float]]) -> str:
    """What the last numbers say about learning."""
    share = found[-1].get("evolution/signal_share")
    if share is None:
        return ""
    said = "ranks are mostly merit" if share > 0.5 else "ranks are mixed" if share > 0.2 else "ranks are mostly luck"
    more = "" if share > 0.2 else ": more prompts a generation, or a larger sigma, would help"
    return f"Of the spread among candidates {share:.0%} is merit, {said}{more}."


def _last_error(rows: Sequence[Mapping[str, Any]]) -> str:
    texts = [text for row in rows for text in row["errors"]]
    return texts[-1] if texts else "fitness not finite"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _chart(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], generations: int, ends: Sequence[int]
) -> str:  # fmt: skip
    """One SVG: lines over generations with four marks on the left, the latest value in the key."""
    values = [value for _, points in lines for _, value in points]
    if not values:
        return "<p>nothing yet</p>"
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or max(abs(high) * 0.05, 0.01)
    low, high = low - room, high + room

    def place(generation: float, value: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - 8) * (generation - 1) / (generations - 1)
        return across, 6 + (HEIGHT - BOTTOM - 6) * (high - value) / (high - low)

    svg = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img>"]
    for mark in range(4):
        value = low + (high - low) * (mark + 0.5) / 4
        y = place(1, value)[1]
        svg.append(f"<line class=grid x1={LEFT} x2={WIDTH - 8} y1={y:.1f} y2={y:.1f} />")
        svg.append(f"<text x={LEFT - 6} y={y + 4:.1f} text-anchor=end>{_mark(value, high - low)}</text>")
    for generation in sorted({1, generations, *(round(generations * part / 4) for part in (1, 2, 3))} - {0}):
        svg.append(f"<text x={place(generation, 0)[0]:.1f} y={HEIGHT - 6} text-anchor=middle>{generation}</text>")
    for end in ends:
        x = place(end + 0.5, 0)[0]
        svg.append(f"<line class=grid x1={x:.1f} x2={x:.1f} y1=6 y2={HEIGHT - BOTTOM} stroke-dasharray='3 3' />")
    key = []
    for colour, (label, points) in zip(COLOURS, lines, strict=False):
        if not points:
            continue
        places = [(*place(*point), point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        svg.append(f"<polyline fill=none stroke='{colour}' stroke-width=1.6 points='{path}' />")
        step = math.ceil(len(places) / 120)
        svg += [
            f"<circle cx={x:.1f} cy={y:.1f} r=2.4 fill='{colour}'><title>{escape(label)}, generation {g:.0f}: {v:.4g}"
            "</title></circle>"
            for x, y, (g, v) in places[::step]
        ]
        key.append(f"<span><b style='color:{colour}'>&#9632;</b> {escape(label)} {_short(points[-1][1])}</span>")
    return "".join(svg) + f"</svg><div class=key>{' &nbsp; '.join(key)}</div>"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _mark(value: float, span: float) -> str:
    """As many digits as tell one mark from the next."""
    return f"{value:.{max(0, min(6, 1 - math.floor(math.log10(span))))}f}"
