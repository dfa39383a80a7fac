"""The pictures of an experiment, drawn with matplotlib from its summaries.

Every function returns a Figure with a transparent ground. `svg` embeds one in a page: its ink becomes the page's own
text colour, so it is readable on light and on dark. `png` writes one on white, for W&B and papers. Colours are Okabe
and Ito's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.style import context

from evaluations.analysis.summary import REFERENCES, PolicySummary, TargetSummary
from evaluations.rows.results import Row

INK = "#3b3c3d"
"""Drawn in this colour, shown in the page's own text colour."""
NAMM_COLOUR = "#e0730f"
VARIANT_COLOURS = {"namm (source)": "#a33b00", "namm (target)": "#f0a860", "namm (sequence)": "#7a4a20"}
REFERENCE_COLOUR = "#8a8f98"
RIVAL_COLOURS = ("#0077bb", "#009e73", "#cc79a7", "#56b4e9", "#b8a000", "#7a5cc4", "#d6604d", "#44aa99")
KINDS = {"R": "return-to-go R", "s": "state s", "a": "action a"}
KIND_COLOURS = {"R": "#cc79a7", "s": "#0077bb", "a": "#009e73"}

STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
}


def scores(target: TargetSummary) -> Figure:
    """Left: every policy's score and 95% interval. Right: the same scores against the slots held."""
    policies = sorted(target.policies, key=lambda p: p.score.value)
    colours = colour_map(p.policy for p in target.policies)
    with context(STYLE):
        figure = Figure(figsize=(9.2, 0.9 + 0.32 * max(8, len(policies))), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=False, width_ratios=(1.25, 1))
        for place, policy in enumerate(policies):
            _point(left, policy.score.value, place, policy, colours[policy.policy], horizontal=True)
        left.set_yticks(range(len(policies)), [p.policy for p in policies])
        left.set_xlabel(f"{target.policies[0].score_name} (mean, 95% interval)")
        left.set_title("Score")
        left.grid(axis="x", color=INK, alpha=0.15)
        left.margins(y=0.04)
        for policy in policies:
            slots = policy.metric("slots_mean")
            if slots:
                _point(right, slots, policy.score.value, policy, colours[policy.policy], horizontal=False)
        right.set_xscale("log")
        right.set_xlabel("mean slots per KV head")
        right.set_ylabel(target.policies[0].score_name)
        right.set_title("Score against memory")
        right.grid(color=INK, alpha=0.15)
        ticks = _log_ticks([p.metric("slots_mean") for p in policies])
        right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        right.set_xticks([], minor=True)
    return figure


def kinds(target: TargetSummary) -> Figure:
    """Fraction of the returns-to-go, states and actions seen so far that each policy held, averaged over time."""
    policies = [p for p in target.policies if p.metric("kept_fraction_s") is not None and p.policy != "full"]
    with context(STYLE):
        figure = Figure(figsize=(9.2, 2.9), layout="constrained")
        axes = figure.subplots()
        for offset, (kind, name) in enumerate(KINDS.items()):
            heights = [100 * (p.metric(f"kept_fraction_{kind}") or 0.0) for p in policies]
            places = np.arange(len(policies)) + 0.26 * (offset - 1)
            axes.bar(places, heights, width=0.24, color=KIND_COLOURS[kind], label=name)
        axes.set_xticks(range(len(policies)), [_two_lines(p.policy) for p in policies])
        axes.set_ylabel("% kept, mean over time")
        axes.set_title("What is kept: retention by kind of token")
        axes.grid(axis="y", color=INK, alpha=0.15)
        axes.legend(ncols=3, loc="upper right", bbox_to_anchor=(1.0, 1.16))
    return figure


def survival(rows: Sequence[Row]) -> Figure:
    """One episode a policy: which tokens (across) were still held as time went on (down)."""
    shown = [row for row in rows if row.get("trace") and row["trace"].get("survival")]
    with context(STYLE):
        figure = Figure(figsize=(9.2, 3.0), layout="constrained")
        if not shown:
            return figure
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        images = [survival_panel(axes, row) for axes, row in zip(panels, shown, strict=True)]
        for axes, row in zip(panels, shown, strict=True):
            axes.set_title(row["policy"])
            axes.set_xlabel("token read at step")
        panels[0].set_ylabel("environment step")
        figure.colorbar(images[-1], ax=list(panels), label="% of layers and heads", pad=0.01)
    return figure


def sizes(target: TargetSummary) -> Figure:
    """Slots per KV head as one episode goes on."""
    colours = colour_map(p.policy for p in target.policies)
    with context(STYLE):
        figure = Figure(figsize=(9.2, 2.8), layout="constrained")
        axes = figure.subplots()
        for policy in target.policies:
            trace = next((row["trace"] for row in policy.rows if row.get("trace")), None)
            if trace and policy.policy != "full":
                width = 2.2 if policy.is_namm else 1.1
                label = policy.policy
                axes.plot(trace["steps"], trace["slots"], lw=width, color=colours[label], label=label, alpha=0.9)
        axes.set_xlabel("environment step")
        axes.set_ylabel("slots per KV head")
        axes.set_title("Memory during one episode")
        axes.set_ylim(bottom=0)
        axes.grid(color=INK, alpha=0.15)
        if axes.lines:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return figure


def colour_map(names: Iterable[str]) -> dict[str, str]:
    """NAMM and its variants in shades of one colour, references grey, every rival its own, whatever the order."""
    found = sorted(set(names))
    namms = [name for name in found if name.lower().startswith("namm")]
    rivals = [name for name in found if name not in namms and name not in REFERENCES]
    colours = dict.fromkeys(found, REFERENCE_COLOUR)
    colours |= {name: RIVAL_COLOURS[place % len(RIVAL_COLOURS)] for place, name in enumerate(rivals)}
    return colours | {name: VARIANT_COLOURS.get(name, NAMM_COLOUR) for name in namms}


def svg(figure: Figure, salt: str) -> str:
    """The figure as an inline SVG element that takes the page's text colour.

    Args:
        figure: What to draw.
        salt: Makes the ids inside unique on the page.
    """
    buffer = io.BytesIO()
    with context({**STYLE, "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
        )
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|url\(#|href="#)', lambda match: f"{match.group(1)}{salt}-", text)
    tag, rest = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", tag) + ">" + rest


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG on white."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def _point(axes: Axes, x: float, y: float, policy: PolicySummary, colour: str, *, horizontal: bool) -> None:
    score = policy.score
    errors = score.error()
    marker = "D" if policy.is_namm else "s" if policy.is_reference else "o"
    size = 8 if policy.is_namm else 6
    style = {"fmt": marker, "ms": size, "color": colour, "elinewidth": 2, "capsize": 3, "label": policy.policy}
    axes.errorbar(x, y, **({"xerr": errors} if horizontal else {"yerr": errors}), **style)


def survival_panel(axes: Axes, row: Row) -> AxesImage:
    """Draws which tokens (across) of a row's traced episode were still held as time went on (down)."""
    trace = row["trace"]
    grid = np.array(trace["survival"], dtype=float)
    steps = trace["survival_steps"]
    last = steps[-1] if len(steps) else 1
    unread = np.arange(grid.shape[1])[None, :] * trace["tokens_per_bin"] > 3 * np.array(steps)[:, None] + 1
    grid[unread] = np.nan
    right = grid.shape[1] * trace["tokens_per_bin"] / 3
    axes.spines[:].set_visible(False)
    return axes.imshow(
        grid, vmin=0, vmax=100, aspect="auto", cmap="viridis", extent=(0, right, last, 0), interpolation="nearest"
    )


def _log_ticks(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value]
    if not known:
        return [1.0]
    ladder = [a * 10.0**b for b in range(5) for a in (1, 2, 5)]
    inside = [tick for tick in ladder if min(known) * 0.85 <= tick <= max(known) * 1.15]
    return inside or [round(known[0], 1)]


def _two_lines(name: str) -> str:
    return name.replace(" (", "\n(").replace("_", "\n")
