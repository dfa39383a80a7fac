"""Pictures of the transfer matrix: a heat map, and a picture of score against memory for each column."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.style import context

from evaluations.analysis.matrix import Column, Line, Matrix
from evaluations.report.figures import INK, NAMM_COLOUR, REFERENCE_COLOUR, RIVAL_COLOURS, STYLE
from evaluations.report.matrix_tables import blocks, mark, plain_name

HEAT = LinearSegmentedColormap.from_list("heat", ["#d98b8b", "#f6f2ea", "#7fb58a"])
"""From nothing to all of the full cache's score."""
PANELS, MANY = 2, 4
"""Side by side; one more where there are many."""
NAMM_SHADES = (NAMM_COLOUR, "#7a4a20", "#f0a860", "#a33b00", "#c9a227")


def heat_map(matrix: Matrix) -> Figure:
    """Two numbers a cell: the relative score with its interval, and what was kept."""
    told = blocks(matrix)
    lines: list[Line | str] = [entry for title, several in told for entry in (title, *several)]
    with context(STYLE):
        width = 2.6 + 1.75 * len(matrix.columns)
        figure = Figure(figsize=(width, 0.7 + 0.4 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for place, line in enumerate(lines):
            if isinstance(line, str):
                axes.text(-0.5, place + 0.2, line, ha="left", va="center", fontsize=8.5, style="italic", alpha=0.8)
            else:
                _heat_line(axes, matrix, line, place)
        names = ["" if isinstance(line, str) else plain_name(matrix, line) for line in lines]
        axes.set_yticks(range(len(lines)), names)
        for label, line in zip(axes.get_yticklabels(), lines, strict=True):
            label.set_fontweight("bold" if isinstance(line, Line) and line.kind == "namm" else "normal")
        axes.set_xticks(range(len(matrix.columns)), [column.title.replace(": ", "\n") for column in matrix.columns])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xlim(-0.5, len(matrix.columns) - 0.5)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
    return figure


def pareto(matrix: Matrix) -> Figure:
    """Of every column: relative score against what was kept, everybody at every size."""
    across = min(PANELS + (len(matrix.columns) > MANY), len(matrix.columns))
    down = -(-len(matrix.columns) // across)
    with context(STYLE):
        figure = Figure(figsize=(9.2, (3.4 if across <= PANELS else 2.6) * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        styles = _styles(matrix)
        for axes, column in zip(panels, matrix.columns, strict=False):
            _pareto_panel(axes, matrix, column, styles)
        for axes in panels[len(matrix.columns) :]:
            axes.set_visible(False)
        handles = {
            label: handle
            for axes in panels[: len(matrix.columns)]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8)
        figure.supxlabel("slots held / tokens seen, %", fontsize=10)
        figure.supylabel("% of the full cache's score", fontsize=10)
    return figure


def _heat_line(axes: Axes, matrix: Matrix, line: Line, place: int) -> None:
    for across, column in enumerate(matrix.columns):
        cell = matrix.cell(line, column)
        if cell is None:
            axes.text(across, place, "–", ha="center", va="center")
            continue
        shade = HEAT(float(np.clip(cell.relative.value / 100.0, 0.0, 1.0)))
        axes.add_patch(_square(across, place, shade))
        value, interval = cell.relative.text(1).split(" ", 1)
        ink = "#1d2126"
        axes.text(across, place - 0.13, f"{value} {mark(cell)}", ha="center", va="center", fontsize=9, color=ink,
                  fontweight="bold" if line.kind == "namm" else "normal")  # fmt: skip
        told = f"{interval} · {100 * cell.kept:.0f}%"
        axes.text(across, place + 0.24, told, ha="center", va="center", fontsize=6.5, color=ink)


def _square(across: int, place: int, shade: tuple[float, ...]) -> Rectangle:
    return Rectangle((across - 0.49, place - 0.47), 0.98, 0.94, facecolor=shade, edgecolor="none")


def _styles(matrix: Matrix) -> dict[str, str]:
    """A colour for every name: NAMMs in shades of one, references grey."""
    namms = dict.fromkeys(line.name for line in matrix.lines if line.kind == "namm")
    rivals = dict.fromkeys(line.name for line in matrix.lines if line.kind == "rival")
    found = {line.name: REFERENCE_COLOUR for line in matrix.lines if line.kind == "reference"}
    found |= {name: NAMM_SHADES[place % len(NAMM_SHADES)] for place, name in enumerate(namms)}
    return found | {name: RIVAL_COLOURS[place % len(RIVAL_COLOURS)] for place, name in enumerate(rivals)}


def _pareto_panel(axes: Axes, matrix: Matrix, column: Column, styles: dict[str, str]) -> None:
    for line in matrix.lines:
        cell = matrix.cell(line, column)
        if cell is None:
            continue
        own = line.kind == "namm" and line.share is None
        marker = "s" if line.kind == "reference" else "*" if own else "D" if line.kind == "namm" else "o"
        label = f"{line.name}, own size" if own else line.name
        axes.errorbar(
            100 * cell.kept, cell.relative.value, yerr=cell.relative.error(), fmt=marker, color=styles[line.name],
            ms=9 if own else 6, elinewidth=1.1, label=label, alpha=0.95, zorder=4 if line.kind == "namm" else 2,
        )  # fmt: skip
    axes.axhline(100.0, color=INK, alpha=0.3, lw=0.8)
    axes.set_title(column.title)
    axes.set_xlim(0, 105)
    axes.grid(color=INK, alpha=0.15)
