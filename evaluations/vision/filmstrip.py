"""The frames of one question with what was kept under each: a section of the report, and a picture for W&B."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.style import context

from evaluations.analysis.summary import TargetSummary
from evaluations.report import figures
from evaluations.report.kept_figures import HELD
from evaluations.report.sections.base import Report, row_class
from evaluations.rows.file import Row
from namm.files import write_atomically

WIDE = 24
"""Pixels of a frame in the report."""
ACROSS = 20
"""Frames beside each other in the picture."""


def section(report: Report) -> str:
    """One question a task: its frames, and a line of bars a policy."""
    shown = "".join(filter(None, map(_strip, report.targets)))
    if not shown:
        return ""
    return (
        "<section><h2>What is kept of each frame</h2><p>One question of each task, the same under every policy: the "
        "frames as the model saw them, oldest first, and below them the share of each frame's slots that was still "
        "held when the question came, the darker the more. Frames with an orange edge show the answer.</p>"
        f"{shown}</section>"
    )


def _strip(target: TargetSummary) -> str:
    rows = [(policy, row) for policy in target.policies for row in policy.rows if row.get("trace")]
    if not rows:
        return ""
    lines = [_frames(rows[0][1])]
    lines += [
        _bars(row, f"<tr{row_class(policy)}><th scope='row'>{escape(policy.policy)}</th>") for policy, row in rows
    ]
    return f"<h3>{escape(target.target)}</h3>{_table(rows[0][1], lines)}"


def example(row: Row) -> str:
    """The same of one row, for the dashboard."""
    return _table(row, [_frames(row), _bars(row, "<tr><th></th>")])


def _table(row: Row, lines: Sequence[str]) -> str:
    question = escape(row["trace"]["question"]).replace("\n", "<br>")
    return (
        f"<p>{question} <b>{escape(row['trace']['expected'])}</b></p>"
        f"<div class='scroll'><table>{''.join(lines)}</table></div>"
    )


def _frames(row: Row) -> str:
    trace = row["trace"]
    evidence = set(trace["evidence"])
    frames = "".join(
        f"<td style='padding:1px'><img width='{WIDE}' alt='' title='{_about(trace, place)}' "
        f"style='display:block;border-bottom:3px solid {figures.NAMM_COLOUR if place in evidence else 'transparent'}' "
        f"src='data:image/jpeg;base64,{escape(frame, quote=True)}'></td>"
        for place, frame in enumerate(trace["frames"])
    )
    return f"<tr><th></th>{frames}<td></td></tr>"


def _bars(row: Row, begin: str) -> str:
    trace = row["trace"]
    cells = "".join(
        f"<td style='padding:1px' title='{100 * share:.0f}% of {_about(trace, place)}'>"
        f"<div style='width:{WIDE}px;height:14px;background:{to_hex(HELD(share))}'></div></td>"
        for place, share in enumerate(trace["kept"])
    )
    right = "✓" if _score(row) else "✗"
    return f"{begin}{cells}<td>{right} {escape(trace['said'] or '(nothing)')}</td></tr>"


def _about(trace: Mapping[str, Any], place: int) -> str:
    told = [f"frame {place}, {trace['seconds'][place]:.1f} s"]
    if trace["words"] is not None:
        told.append(f"{trace['words'][place]}")
        told.append(f"relevance {trace['relevance'][place]:.2f}, novelty {trace['novelty'][place]:.2f}")
    return escape("; ".join(told), quote=True)


def _score(row: Row) -> bool:
    return any(trial["id"] == row["trace"]["id"] and trial["score"] > 0 for trial in row["questions"])


def strip_picture(rows: Sequence[Row], folder: Path) -> Path | None:
    """The same of one policy's rows as a PNG; None where none has a trace."""
    row = next((row for row in rows if row.get("trace")), None)
    if row is None:
        return None
    folder.mkdir(exist_ok=True)
    path = folder / f"strip-{row['key']}.png"
    write_atomically(path, figures.png(strip_figure(row)))
    return path


def strip_figure(row: Row) -> Figure:
    """Frames in lines, a bar under each."""
    from PIL import Image

    trace = row["trace"]
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(frame)))) for frame in trace["frames"]]
    columns = min(ACROSS, len(pictures))
    lines = -(-len(pictures) // columns)
    with context(figures.STYLE):
        figure = Figure(figsize=(0.55 * columns, 0.75 * lines + 0.5))
        grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[4, 1] * lines)
        for axes in grid.flat:
            axes.set_axis_off()
        for place, picture in enumerate(pictures):
            line, column = divmod(place, columns)
            frame, bar = grid[2 * line][column], grid[2 * line + 1][column]
            frame.imshow(picture)
            if place in trace["evidence"]:
                frame.set_title("•", color=figures.NAMM_COLOUR, fontsize=9, pad=0, loc="center")
            bar.barh([0], [1], color=HELD(0.0))
            bar.barh([0], [trace["kept"][place]], color=HELD(1.0))
            bar.set_xlim(0, 1)
        said = f"{trace['question'].partition(chr(10))[0]}  {trace['said']!r}, right is {trace['expected']!r}"
        figure.suptitle(f"{row['policy']}: {said}", fontsize=9)
    return figure
