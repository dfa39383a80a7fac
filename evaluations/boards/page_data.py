"""Everything that the local dashboard shows, as one JSON value: cells, matrices, films and examples."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluations.boards.experiments import Experiment, media_of, with_shares
from evaluations.boards.local_page import Shown, shown_cells
from evaluations.boards.matrix_view import matrix_view
from evaluations.boards.panels import board_of
from evaluations.boards.wandb_package import reason
from evaluations.rows.trials import of

ORDER = ("reference", "namm", "rival")
"""Of cells on the page."""
FIRST = ("namm", "reference", "rival")
"""Whose films and examples are in the page where not all fit."""
EXAMPLE_BYTES = 8_000_000
"""Examples beyond this size are left out; their rows have them."""


def page_data(experiments: Sequence[Experiment], most_videos: int) -> dict[str, Any]:
    """What the page shows of some experiments.

    Args:
        experiments: What was read.
        most_videos: Films to put into the page, at most, and as many pictures; NAMM's come first.
    """
    read = [(experiment, *shown_cells(experiment)) for experiment in map(with_shares, experiments)]
    shown = [item for _, several, _ in read for item in several]
    shown.sort(key=lambda item: ORDER.index(item.cell["family"]))
    left_out = _add_media(sorted(shown, key=lambda item: FIRST.index(item.cell["family"])), most_videos)
    places = {id(item): place for place, item in enumerate(shown)}
    views = []
    for experiment, several, remarks in read:
        by_key = {row["key"]: places[id(item)] for item in several for row in item.rows}
        rows = tuple(row for row in experiment.rows if row["key"] in by_key)
        told = (*experiment.remarks, *remarks)
        views.append(matrix_view(replace(experiment, rows=rows, remarks=told), by_key))
    return {"cells": [item.cell for item in shown], "matrices": views, "left_out": left_out}


def _add_media(shown: Sequence[Shown], most_videos: int) -> list[str]:
    """Gives cells their film and their example, and says what had no room."""
    size, no_room, no_film = 0, 0, 0
    films = {"video": most_videos, "memory": most_videos}
    for item in shown:
        example = _example(item)
        no_room += bool(example) and size + len(example) > EXAMPLE_BYTES
        item.cell["example"] = example if size + len(example) <= EXAMPLE_BYTES else ""
        size += len(item.cell["example"])
        item.cell["media"] = {}
        for kind, path in _films(item).items():
            if films[kind] > 0:
                item.cell["media"][kind] = _inlined(path)
                films[kind] -= 1
            else:
                no_film += 1
    told = [f"{no_film} films and pictures are not in this page; --videos says how many may be."] if no_film else []
    return told + ([f"{no_room} examples are not in this page, for its size; their rows have them."] if no_room else [])


def _example(item: Shown) -> str:
    """One trial with what was kept, where its modality can show one; a damaged trace costs the example."""
    row = next((row for row in item.rows if row.get("trace")), None)
    if row is None:
        return ""
    try:
        return board_of(of(row)).example(row)
    except Exception as error:
        return f"<p>The example of this cell could not be drawn ({type(error).__name__}).</p>" if reason(error) else ""


def _films(item: Shown) -> dict[str, Path]:
    """What an experiment drew of a cell, by the names under which W&B has it."""
    found: dict[str, Path] = {}
    for row in item.rows:
        media = media_of(item.experiment.folder, row)
        for kind, path in (("video", media.video), ("memory", media.picture)):
            if path is not None:
                found.setdefault(kind, path)
    return found


def _inlined(path: Path) -> str:
    kind = path.suffix.removeprefix(".")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
