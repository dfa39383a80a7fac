"""Pictures of score against cache size: a panel a target, and all targets together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context

from evaluations.analysis.curves import Curve, TargetCurves, interpolation
from evaluations.analysis.summary import PolicySummary
from evaluations.report.figures import INK, REFERENCE_COLOUR, STYLE, colour_map
from evaluations.rows.policy_names import FULL

PANELS = 3
"""Targets side by side."""
RELATIVE_GRID = 60
"""Sizes at which the mean over targets is drawn."""
BAND_DRAWS = 1000
"""Resamples behind the band around a mean."""
SIZE_TICKS = (3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
SHARE_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
BELOW, ABOVE = 0.8, 1.2
"""How far outside of the sizes that were measured a tick may lie."""
APART = 1.012
"""Curves are drawn this factor apart in size, so that the error bars of equal sizes do not hide one another."""


def by_target(found: Sequence[TargetCurves]) -> Figure:
    """Every target's curves; native window and full cache as bands, NAMMs that chose their own size as diamonds."""
    colours = colour_map(p.policy for t in found for p in t.summary.policies)
    across = min(PANELS, len(found))
    down = -(-len(found) // across)
    with context(STYLE):
        figure = Figure(figsize=(9.2, 0.6 + (3.4 if across < 3 else 2.8) * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes, curves in zip(panels, found, strict=False):
            _panel(axes, curves, colours)
        for axes in panels[len(found) :]:
            axes.set_visible(False)
        figure.supxlabel("mean slots per KV head", fontsize=10)
        figure.supylabel(found[0].summary.policies[0].score_name if len(found) == 1 else "score", fontsize=10)
        _legend(figure, list(panels[: len(found)]))
    return figure


def together(found: Sequence[TargetCurves]) -> Figure | None:
    """Mean over targets at the same share of the full cache: score, and score relative to the reference.

    None where fewer than two targets can be put on one scale.
    """
    usable = [c for c in found if c.summary.policies[0].score_name != "return" and _full_slots(c)]
    if len(usable) < 2:
        return None
    names = [curve.policy for curve in usable[0].curves]
    shared = [name for name in names if all(any(c.policy == name for c in t.curves) for t in usable)]
    colours = colour_map(p.policy for t in usable for p in t.summary.policies)
    references = [target.reference for target in usable]
    to_reference = [100.0 / found.score.value for found in references if found and found.score.value > 0]
    positive = len(to_reference) == len(usable)
    with context(STYLE):
        figure = Figure(figsize=(9.2, 3.8), layout="constrained")
        panels = figure.subplots(1, 2 if positive else 1, squeeze=False)[0]
        full = [_full_slots(target) or math.nan for target in usable]
        for axes, scales in zip(panels, ([1.0] * len(usable), to_reference), strict=False):
            for name in shared:
                curves = [next(c for c in t.curves if c.policy == name) for t in usable]
                _mean_curve(axes, curves, full, scales, colours[name])
            axes.set_xscale("log")
            _percent_ticks(axes)
            axes.set_xlabel("% of the full cache's slots")
            axes.set_title("% of the reference's score" if scales is to_reference else "Mean score")
            axes.grid(color=INK, alpha=0.15)
        _legend(figure, list(panels))
    return figure


def _panel(axes: Axes, found: TargetCurves, colours: dict[str, str]) -> None:
    for reference, dashes in ((found.summary.native, "--"), (found.summary.get(FULL), "-")):
        if reference is not None:
            score = reference.score
            if score.is_bounded:
                axes.axhspan(score.low, score.high, facecolor=REFERENCE_COLOUR, alpha=0.25, lw=0)
            axes.axhline(score.value, color=REFERENCE_COLOUR, lw=1.3, ls=dashes, label=reference.policy)
    for place, curve in enumerate(found.curves):
        aside = APART ** (place - (len(found.curves) - 1) / 2)
        _errors(axes, curve.slots * aside, curve.points, colours[curve.policy], curve)
    for namm in found.free:
        slots = namm.metric("slots_mean")
        if slots:
            style = {"ms": 8, "elinewidth": 1.6, "capsize": 3, "mec": INK, "mew": 0.8}
            _errorbar(axes, [slots], [namm], fmt="D", color=colours[namm.policy], label=namm.policy, zorder=5, **style)
    axes.set_xscale("log")
    axes.set_title(found.summary.target, fontsize=10)
    axes.grid(color=INK, alpha=0.15)
    slots = np.concatenate([curve.slots for curve in found.curves])
    ticks = [t for t in SIZE_TICKS if slots.min() * BELOW <= t <= slots.max() * ABOVE]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _errors(axes: Axes, slots: np.ndarray, points: Sequence[PolicySummary], colour: str, curve: Curve) -> None:
    width = 2.0 if curve.is_namm else 1.1
    style = {"fmt": "-o", "ms": 3.5, "lw": width, "elinewidth": 0.9, "capsize": 0, "color": colour}
    label = f"{curve.policy}, budget" if curve.is_namm else curve.policy
    _errorbar(axes, slots, points, label=label, zorder=3 if curve.is_namm else 2, **style)


def _errorbar(axes: Axes, slots: Sequence[float] | np.ndarray, points: Sequence[PolicySummary], **style: Any) -> None:
    values = np.array([point.score.value for point in points])
    axes.errorbar(slots, values, yerr=np.hstack([point.score.error() for point in points]), **style)


def _full_slots(found: TargetCurves) -> float | None:
    """Mean slots that the full cache held on a target."""
    full = found.summary.get("full")
    return full.metric("slots_mean") if full else None


def _mean_curve(
    axes: Axes, curves: Sequence[Curve], full: Sequence[float], scales: Sequence[float], colour: str
) -> None:
    low = max(curve.slots[0] / most for curve, most in zip(curves, full, strict=True))
    high = min(curve.slots[-1] / most for curve, most in zip(curves, full, strict=True))
    if low >= high:
        return
    grid = np.geomspace(low, high, RELATIVE_GRID)
    values, draws = np.zeros(len(grid)), 0.0
    for curve, most, scale in zip(curves, full, scales, strict=True):
        weights = interpolation(curve.slots, grid * most).T * scale / len(curves)
        values = values + curve.scores() @ weights
        draws = draws + curve.draws(BAND_DRAWS) @ weights
    bottom, top = np.percentile(draws, (2.5, 97.5), axis=0)
    width = 2.4 if curves[0].is_namm else 1.3
    axes.plot(100 * grid, values, color=colour, lw=width, label=curves[0].policy, zorder=3 if curves[0].is_namm else 2)
    axes.fill_between(100 * grid, bottom, top, color=colour, alpha=0.2 if curves[0].is_namm else 0.09, lw=0)


def _percent_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    ticks = [tick for tick in SHARE_TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=min(5, len(handles)), fontsize=8.5)
