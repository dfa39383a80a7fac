"""Pictures of the comparison over all targets: aggregates, probability of improvement, performance profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context

from evaluations.analysis.aggregates import Profile, average_profile, performance_profile, scores_of
from evaluations.analysis.comparison import CONTENDER, Aggregates, Comparison, Entry
from evaluations.analysis.estimates import Estimate
from evaluations.analysis.summary import BOOTSTRAP_SEED
from evaluations.report.figures import INK, STYLE, colour_map

COLUMNS = 4
"""Panels side by side in a grid of small pictures."""
AVERAGES_FROM = 5
"""Fewer targets than this have too few means for a profile of them."""
THRESHOLDS = 121


def aggregates(comparison: Comparison) -> Figure:
    """Mean, interquartile mean and optimality gap of every policy that ran everywhere, with intervals."""
    entries = [(entry, entry.aggregates) for entry in comparison.entries if entry.aggregates][::-1]
    colours = colour_map(entry.name for entry in comparison.entries)
    panels: tuple[tuple[str, Callable[[Aggregates], Estimate]], ...] = (
        ("Mean score", lambda found: found.mean),
        ("Interquartile mean", lambda found: found.interquartile),
        ("Gap to 100 (smaller is better)", lambda found: found.gap),
    )
    with context(STYLE):
        figure = Figure(figsize=(9.2, 0.9 + 0.3 * len(entries)), layout="constrained")
        for axes, (title, get) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
            for place, (entry, found) in enumerate(entries):
                _interval(axes, get(found), place, entry, colours[entry.name])
            axes.set_title(title)
            axes.set_yticks(range(len(entries)), [entry.name for entry, _ in entries])
            axes.grid(axis="x", color=INK, alpha=0.15)
            axes.margins(y=0.05)
    return figure


def improvement(comparison: Comparison) -> Figure:
    """Probability that a trial of NAMM scores above one of each other policy, mean over targets."""
    entries = [(entry, entry.improvement) for entry in comparison.entries if entry.improvement][::-1]
    colours = colour_map(entry.name for entry in comparison.entries)
    with context(STYLE):
        figure = Figure(figsize=(9.2, 0.8 + 0.3 * len(entries)), layout="constrained")
        axes = figure.subplots()
        for place, (entry, estimate) in enumerate(entries):
            _interval(axes, estimate, place, entry, colours[entry.name])
        axes.axvline(0.5, color=INK, lw=1, ls="--")
        axes.set_yticks(range(len(entries)), [f"NAMM > {entry.name}" for entry, _ in entries])
        axes.set_xlim(-0.02, 1.02)
        axes.margins(y=0.06)
        axes.set_xlabel("probability of improvement (0.5: as often above as below)")
        axes.grid(axis="x", color=INK, alpha=0.15)
    return figure


def profiles(comparison: Comparison) -> Figure | None:
    """Fraction of trials above every score, NAMM and one other policy a panel; None where NAMM ran alone."""
    return _profiles(comparison, performance_profile, "fraction of trials above")


def average_profiles(comparison: Comparison) -> Figure | None:
    """Fraction of targets whose mean is above every score; None where there are too few targets, or NAMM ran alone."""
    if len(comparison.targets) < AVERAGES_FROM:
        return None
    return _profiles(comparison, average_profile, "fraction of targets above")


def _profiles(comparison: Comparison, profile: Callable[..., Profile], label: str) -> Figure | None:
    whole = [entry for entry in comparison.entries if entry.aggregates]
    ours = next((entry for entry in whole if entry.name == CONTENDER), None)
    others = [entry for entry in whole if not entry.is_namm] if ours else whole
    if not others:
        return None
    thresholds = _thresholds(whole)
    colours = colour_map(entry.name for entry in comparison.entries)
    with context(STYLE):
        rows = -(-len(others) // COLUMNS)
        figure = Figure(figsize=(9.2, 0.5 + 1.9 * rows), layout="constrained")
        panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, entry in zip(panels, others, strict=False):
            for shown in (entry, ours) if ours else (entry,):
                _band(axes, profile(shown.tasks(), thresholds, BOOTSTRAP_SEED, 1000), colours[shown.name])
            axes.set_title(entry.name, color=colours[entry.name], fontsize=10)
            axes.grid(color=INK, alpha=0.15)
        for axes in panels[len(others) :]:
            axes.set_visible(False)
        panels[0].set_ylim(-0.02, 1.02)
        figure.supxlabel("score", fontsize=10)
        figure.supylabel(label, fontsize=10)
    return figure


def _thresholds(entries: Sequence[Entry]) -> np.ndarray:
    scores = np.concatenate([scores_of(task).ravel() for entry in entries for task in entry.tasks()])
    return np.linspace(min(0.0, float(scores.min())), float(scores.max()), THRESHOLDS)


def _band(axes: Axes, profile: Profile, colour: str) -> None:
    axes.plot(profile.thresholds, profile.fraction, color=colour, lw=1.6, drawstyle="steps-post")
    axes.fill_between(profile.thresholds, profile.low, profile.high, color=colour, alpha=0.22, lw=0, step="post")


def _interval(axes: Axes, estimate: Estimate, place: int, entry: Entry, colour: str) -> None:
    marker = "D" if entry.name == CONTENDER else "s" if entry.is_reference else "o"
    style = {"fmt": marker, "ms": 6, "color": colour, "elinewidth": 2, "capsize": 3}
    axes.errorbar(estimate.value, place, xerr=estimate.error(), **style)
