"""Finds the experiments in some folders and reads them, to be shown or mirrored; nothing in them is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluations.boards.wandb_runs import SYNCED
from evaluations.experiment.contract import Media
from evaluations.rows.policy_names import KEEP
from evaluations.rows.reading import read_rows
from evaluations.rows.results import Row
from namm.errors import DataError

ROWS = "rows.jsonl"
NOT_SEARCHED = frozenset({"wandb", SYNCED, "media"})
"""Folders in which no experiment lies."""


@dataclass(frozen=True)
class Experiment:
    """A results folder that was read."""

    name: str
    folder: Path
    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    remarks: tuple[str, ...] = ()
    """What of it was left out, and why."""


def find_folders(folders: Sequence[Path], file: str = ROWS) -> list[Path]:
    """The folders that hold a file, among some folders and all that lie in them, in order, each once.

    Args:
        folders: Of experiments, or that contain some at any depth.
        file: What makes a folder one.

    Raises:
        DataError: A folder is not there.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f"expected a folder of results, found none at {folder}; name what an experiment was given as --out, or "
                "a folder that contains such ones"
            )
        for place, below, files in os.walk(folder):
            below[:] = sorted(name for name in below if name not in NOT_SEARCHED and not name.startswith("."))
            if file in files:
                found.setdefault(Path(place).resolve(), Path(place))
    return list(found.values())


def read_experiments(folders: Sequence[Path]) -> list[Experiment]:
    """The experiments in some results folders; folders of one name are told apart by those above them.

    Raises:
        DataError: Nowhere is a row.
    """
    places = find_folders(folders)
    found = []
    for folder, name in zip(places, _names(places), strict=True):
        reading = read_rows(folder / ROWS)
        settings, remarks = _settings(folder / "config.json")
        found.append(Experiment(name, folder, reading.rows, settings, (*reading.remarks, *remarks)))
    if not any(experiment.rows for experiment in found):
        remarks = " ".join(remark for experiment in found for remark in experiment.remarks)
        raise DataError(
            f"expected {ROWS} with at least one row in {', '.join(map(str, folders))}, found none; name what an "
            f"experiment was given as --out. {remarks}".rstrip()
        )
    return found


def with_shares(experiment: Experiment) -> Experiment:
    """The same with the share of the tokens that a budget stands for in every row of that budget.

    Rows that a transfer experiment took from others do not say it themselves.
    """

    def size(row: Row) -> tuple[str, int | None]:
        return row["target"], row["identity"].get("budget")

    told = {size(row): share for row in experiment.rows if (share := row["memory"].get("share")) is not None}

    def told_of(row: Row) -> Row:
        options = row["identity"].get("options")
        own = options.get(KEEP) if isinstance(options, Mapping) else None
        known = told.get(size(row)) if row["memory"].get("role") == "given" else None
        share = row["memory"].get("share", known if own is None else own)
        return row if share is None else {**row, "memory": {**row["memory"], "share": share}}

    return replace(experiment, rows=tuple(map(told_of, experiment.rows)))


def media_of(folder: Path, row: Row) -> Media:
    """The files that an experiment has drawn of a row, by its key."""
    if not row.get("trace") or not (folder / "media").is_dir():
        return Media()
    found = {kind: next((folder / "media").glob(f"*{row['key']}.{kind}"), None) for kind in ("png", "gif", "html")}
    return Media(picture=found["png"], video=found["gif"], html=found["html"])


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that differ."""
    paths = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    else:
        return []
    lone = [parts[-1] for parts in paths]
    return [name if lone.count(last) > 1 else last for name, last in zip(names, lone, strict=True)]


def _settings(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        return {}, [f"{path} cannot be read ({error}); settings are not shown."]
    return (found, []) if isinstance(found, dict) else ({}, [f"{path} holds no JSON object; settings are not shown."])
