"""Pictures of what is remembered: by kind and age over an episode, by layer and head, and cues until they are lost.

Drawn from finished rows in the style of evaluations/report/figures.py; an empty figure where rows say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.style import context

from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.analysis.survival import Survival, by_head, held_at_need, in_any_head
from evaluations.report.figures import INK, STYLE, colour_map
from evaluations.rows.results import Row

CURVE_POINTS = 120
"""Points in time at which the survival of each head is drawn."""
KINDS = {"R": "return-to-go R", "s": "state s", "a": "action a"}
KIND_COLOURS = {"R": "#cc79a7", "s": "#0077bb", "a": "#009e73"}


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


def heads_by_age(policies: Sequence[PolicySummary]) -> Figure:
    """Share of the tokens of each age that every layer and head held, one panel a policy."""
    return _panels(policies, _heads_panel, "age of the token, environment steps", "layer · head", "% kept")


def ages_over_time(policies: Sequence[PolicySummary]) -> Figure:
    """Share of the tokens of each age that was held as the episode went on, one panel a policy."""
    return _panels(policies, _ages_panel, "environment step", "age of the token, steps", "% kept")


def kinds_over_time(policies: Sequence[PolicySummary]) -> Figure:
    """Share of the returns-to-go, states and actions read so far that was held, one panel a policy."""
    shown = [p for p in policies if any(_told(row) for row in p.rows)]
    with context(STYLE):
        figure = Figure(figsize=(9.2, 2.4), layout="constrained")
        if not shown:
            return figure
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, policy in zip(panels, shown, strict=True):
            _kinds_panel(axes, policy.rows)
            axes.set_title(policy.policy)
            axes.set_xlabel("environment step")
        panels[0].set_ylabel("% kept")
        panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def cue_survival(target: TargetSummary) -> Figure:
    """Left: how long a cue survives in at least one head. Right: whether it was held when it was needed."""
    policies = [p for p in target.policies if in_any_head(p.rows)]
    colours = colour_map(p.policy for p in target.policies)
    with context(STYLE):
        figure = Figure(figsize=(9.2, 0.9 + 0.32 * max(8, len(policies))), layout="constrained")
        if not policies:
            return figure
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for policy in policies:
            kept = in_any_head(policy.rows)
            assert kept is not None
            width = 2.4 if policy.is_namm else 1.3
            style = "--" if policy.is_reference else "-"
            steps, held = _stairs(kept, kept.held)
            left.plot(steps, held, lw=width, ls=style, color=colours[policy.policy])
            if policy is target.best_namm:
                low, high = _stairs(kept, kept.low)[1], _stairs(kept, kept.high)[1]
                left.fill_between(steps, low, high, color=colours[policy.policy], alpha=0.18, lw=0)
        left.set_ylim(-3, 103)
        left.set_xlim(left=0)
        left.set_xlabel("environment steps since the cue")
        left.set_ylabel("% of cues")
        left.set_title("Held by at least one head")
        left.grid(color=INK, alpha=0.15)
        known = [(policy, held) for policy in policies if (held := held_at_need(policy.rows)) is not None]
        ordered = sorted(known, key=lambda each: each[1].value)
        for place, (policy, held) in enumerate(ordered):
            errors = [[100 * (held.value - held.low)], [100 * (held.high - held.value)]]
            marker = "D" if policy.is_namm else "s" if policy.is_reference else "o"
            style = {"fmt": marker, "ms": 6, "elinewidth": 2, "capsize": 3, "color": colours[policy.policy]}
            right.errorbar(100 * held.value, place, xerr=errors, **style)
        right.set_yticks(range(len(ordered)), [policy.policy for policy, _ in ordered])
        right.set_xlim(-3, 103)
        right.set_xlabel("% of cues, 95% interval")
        right.set_title("When it was needed")
        right.grid(axis="x", color=INK, alpha=0.15)
    return figure


def cue_heads(policies: Sequence[PolicySummary]) -> Figure:
    """Share of the cues that every layer and head still held, against the steps since they were shown."""
    shown = [p for p in policies if by_head(p.rows)]
    with context(STYLE):
        rows = max((len(by_head(p.rows)) for p in shown), default=1)
        figure = Figure(figsize=(9.2, 1.5 + 0.22 * min(rows, 24)), layout="constrained")
        if not shown:
            return figure
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        images = []
        for axes, policy in zip(panels, shown, strict=True):
            heads = by_head(policy.rows)
            horizon = max(kept.horizon for kept in heads)
            grid = np.linspace(0, horizon, CURVE_POINTS)
            held = 100 * np.stack([kept.at(grid) for kept in heads])
            images.append(_heat(axes, held, extent=(0, horizon, len(heads) - 0.5, -0.5)))
            axes.set_yticks(*_head_labels(policy.rows[0]["cue"]["layers"], policy.rows[0]["cue"]["heads"]))
            axes.set_title(policy.policy)
            axes.set_xlabel("steps since the cue")
        panels[0].set_ylabel("layer · head")
        figure.colorbar(images[-1], ax=list(panels), label="% of cues held", pad=0.01)
    return figure


def memory_picture(row: Row) -> Figure:
    """What one row remembers, for W&B: its first episode's tokens, kinds over time, and layer x head x age."""
    with context(STYLE):
        figure = Figure(figsize=(12, 3.4))
        axes = figure.subplots(1, 3)
        figure.subplots_adjust(left=0.05, right=0.98, bottom=0.25, top=0.88, wspace=0.28)
        if (row.get("trace") or {}).get("survival"):
            survival_panel(axes[0], row)
        axes[0].set(title="one episode: % of heads holding", xlabel="token read at step", ylabel="environment step")
        if _told(row):
            _kinds_panel(axes[1], [row])
            axes[1].legend(fontsize=8)
            _heads_panel(axes[2], [row])
        axes[1].set(title="% kept, by kind", xlabel="environment step")
        axes[2].set(title="% kept, by layer · head", xlabel="age of the token, steps")
    return figure


def _panels(
    policies: Sequence[PolicySummary],
    draw: Callable[[Axes, Sequence[Row]], AxesImage],
    across: str,
    down: str,
    colours: str,
) -> Figure:
    """One heat map a policy, with one scale for all."""
    shown = [p for p in policies if any(_told(row) for row in p.rows)]
    with context(STYLE):
        height = max((_lines(p.rows) for p in shown), default=3) if draw is _heads_panel else 8
        figure = Figure(figsize=(9.2, 1.7 + 0.22 * min(height, 24)), layout="constrained")
        if not shown:
            return figure
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        images = [draw(axes, policy.rows) for axes, policy in zip(panels, shown, strict=True)]
        for axes, policy in zip(panels, shown, strict=True):
            axes.set_title(policy.policy)
        panels[0].set_ylabel(down)
        figure.supxlabel(across, fontsize=10)
        figure.colorbar(images[-1], ax=list(panels), label=colours, pad=0.01)
    return figure


def _heads_panel(axes: Axes, rows: Sequence[Row]) -> AxesImage:
    told = [row["retention"] for row in rows if _told(row)]
    heads = _mean([retention["heads"] for retention in told])
    layers, per_layer, _ = heads.shape
    flat = 100 * heads.reshape(layers * per_layer, -1)
    used = np.isfinite(flat).any(axis=0)
    image = _heat(axes, flat[:, used])
    labels = np.array(_age_labels(told[0]["age_edges"]))[used]
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(*_head_labels(layers, per_layer))
    if len(flat) <= 12:
        for (line, column), value in np.ndenumerate(flat[:, used]):
            if np.isfinite(value):
                ink = "white" if value < 60 else "black"
                axes.text(column, line, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
    return image


def _ages_panel(axes: Axes, rows: Sequence[Row]) -> AxesImage:
    told = _longest(rows)
    ages = 100 * _mean([retention["ages"] for retention in told]).T
    used = np.isfinite(ages).any(axis=1)
    last = told[0]["steps"][-1]
    image = _heat(axes, ages[used], extent=(0, last, int(used.sum()) - 0.5, -0.5))
    labels = np.array(_age_labels(told[0]["age_edges"]))[used]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    return image


def _kinds_panel(axes: Axes, rows: Sequence[Row]) -> None:
    told = _longest(rows)
    for kind, name in KINDS.items():
        held = 100 * _mean([retention["kinds"][kind] for retention in told])
        axes.plot(told[0]["steps"], held, lw=1.6, color=KIND_COLOURS[kind], label=name)
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    axes.grid(color=INK, alpha=0.15)


def _heat(axes: Axes, values: np.ndarray, extent: tuple[float, float, float, float] | None = None) -> AxesImage:
    axes.spines[:].set_visible(False)
    return axes.imshow(values, vmin=0, vmax=100, aspect="auto", cmap="viridis", extent=extent, interpolation="nearest")


def _told(row: Row) -> bool:
    return bool((row.get("retention") or {}).get("heads"))


def _longest(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the rows that lasted longest say over time: only those share their points in time."""
    told = [row["retention"] for row in rows if _told(row)]
    most = max(told, key=lambda retention: retention["steps"][-1])["steps"]
    return [retention for retention in told if retention["steps"] == most]


def _lines(rows: Sequence[Row]) -> int:
    heads = next(row["retention"]["heads"] for row in rows if _told(row))
    return len(heads) * len(heads[0])


def _mean(values: Sequence[list[Any]]) -> np.ndarray:
    """Mean over rows of equally shaped nested lists, ignoring null; not a number where all are."""
    stacked = np.array(values, dtype=float)
    known = np.isfinite(stacked)
    return np.divide(
        np.where(known, stacked, 0).sum(0), known.sum(0), out=np.full(stacked.shape[1:], np.nan), where=known.any(0)
    )


def _age_labels(edges: Sequence[int]) -> list[str]:
    return [f"{low}" if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(edges)]


def _head_labels(layers: int, heads: int) -> tuple[list[int], list[str]]:
    """Places and texts of at most 24 labels."""
    names = [f"{layer}" if heads == 1 else f"{layer} · {head}" for layer in range(layers) for head in range(heads)]
    every = -(-len(names) // 24)
    return list(range(0, len(names), every)), names[::every]


def _stairs(kept: Survival, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a step function in percent, up to its horizon."""
    steps = np.append(np.repeat(kept.steps, 2)[1:], kept.horizon)
    return steps, 100 * np.repeat(values, 2)


def _two_lines(name: str) -> str:
    return name.replace(" (", "\n(").replace("_", "\n")
