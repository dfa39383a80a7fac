"""The pictures of an experiment, drawn with matplotlib from its summaries.

Every function returns a Figure with a transparent ground. `svg` embeds one in a page: its ink becomes the page's own
text colour, so it is readable on light and on dark. `png` writes one on white, for W&B and papers. Colours are Okabe
and Ito's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.style import context

from evaluations.analysis.comparison import CONTENDER
from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.rows.policy_names import is_namm
from evaluations.rows.trials import registered

INK = "#3b3c3d"
"""Drawn in this colour, shown in the page's own text colour."""
NAMM_COLOUR = "#e0730f"
VARIANT_COLOURS = {"namm:source": "#a33b00", "namm:target": "#f0a860", "namm:sequence": "#7a4a20"}
REFERENCE_COLOUR = "#8a8f98"
RIVAL_COLOURS = ("#0077bb", "#009e73", "#cc79a7", "#56b4e9", "#b8a000", "#7a5cc4", "#d6604d", "#44aa99")

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


def sizes(target: TargetSummary) -> Figure:
    """Slots per KV head as one trial goes on."""
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
        axes.set_xlabel(target.described.time)
        axes.set_ylabel("slots per KV head")
        axes.set_title(f"Memory during one {target.described.word}")
        axes.set_ylim(bottom=0)
        axes.grid(color=INK, alpha=0.15)
        if axes.lines:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return figure


def colour_map(names: Iterable[str]) -> dict[str, str]:
    """NAMM and its variants in shades of one colour, references grey, every rival its own, whatever the order."""
    found = sorted(set(names))
    namms = [name for name in found if name == CONTENDER or is_namm(name)]
    rivals = [name for name in found if name not in namms and name not in references()]
    colours = dict.fromkeys(found, REFERENCE_COLOUR)
    colours |= {name: RIVAL_COLOURS[place % len(RIVAL_COLOURS)] for place, name in enumerate(rivals)}
    return colours | {name: VARIANT_COLOURS.get(name, NAMM_COLOUR) for name in namms}


def references() -> frozenset[str]:
    """Policies that are shown for orientation, of any modality."""
    return frozenset(name for trials in registered().values() for name in trials.references)


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


def _log_ticks(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value]
    if not known:
        return [1.0]
    ladder = [a * 10.0**b for b in range(5) for a in (1, 2, 5)]
    inside = [tick for tick in ladder if min(known) * 0.85 <= tick <= max(known) * 1.15]
    return inside or [round(known[0], 1)]
