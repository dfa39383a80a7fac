"""One self-contained page for any number of experiments: the panels of the W&B workspace, drawn from rows.jsonl.

    namm-dashboard results/rl                       writes results/rl/dashboard.html
    namm-dashboard results/rl results/ablation --out both.html
    namm-dashboard --wandb --entity TEAM            makes the same dashboard as a W&B workspace

The page is filtered and grouped by modality, environment, policy and experiment in the browser and works offline: data,
videos and the drawing library (plotly.js) are inside the file. It can be made while an experiment is running.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from evaluations.boards.experiments import read_experiments
from evaluations.boards.local_page import cells
from evaluations.boards.panels import numbers_of, sections_of
from evaluations.boards.wandb_package import project as default_project
from evaluations.boards.workspace import workspace
from evaluations.commands.exit import exit_code
from evaluations.report.page import styled
from evaluations.rows.trials import Trials
from evaluations.rows.trials import several as modalities_of
from namm.errors import ConfigError, MissingExtraError
from namm.files import write_atomically


@dataclass(frozen=True)
class DashboardConfig:
    """What `namm-dashboard` can be told."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("results/rl"),)
    """Folders of experiments, as every command writes them to its --out."""

    out: Path | None = None
    """The page. Default: dashboard.html in the first folder."""

    videos: int = 40
    """Most videos to put into the page; NAMM's come first."""

    wandb: bool = False
    """Make a workspace in Weights & Biases instead of a page; needs an account, and the runs to be there."""

    entity: str | None = None
    """User or team in W&B. Default: the account's own."""

    project: str | None = None
    """Project in W&B. Default: WANDB_PROJECT, else where the experiments mirror to."""

    group: str | None = None
    """Show only this group of runs in W&B: a suite, or the name of an experiment's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        description = (__doc__ or "").partition("\n\n")[0]
        config = tyro.cli(DashboardConfig, args=arguments, description=description, prog="namm-dashboard")
        made = save_workspace(config) if config.wandb else write_page(config)
        Console().print(f"dashboard  {made}", markup=False, soft_wrap=True)

    return exit_code(work, "nothing was written; run the same command again")


def write_page(config: DashboardConfig) -> Path:
    """Writes the local page and returns its path.

    Raises:
        ConfigError: No folder is named.
        MissingExtraError: The drawing library is not installed.
        DataError: A folder holds no rows.
    """
    if not config.folders:
        raise ConfigError(
            "namm-dashboard needs at least one results folder, found none; name what an experiment was given as --out."
        )
    path = config.out or config.folders[0] / "dashboard.html"
    experiments = read_experiments(config.folders)
    modalities = modalities_of([row for experiment in experiments for row in experiment.rows])
    write_atomically(path, render(cells(experiments, config.videos), modalities))
    return path


def render(shown: Sequence[dict[str, Any]], modalities: Sequence[Trials]) -> str:
    """The page as text.

    Args:
        shown: Every cell (evaluations/boards/local_page.py).
        modalities: Of all of them.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("The page needs plotly, found none; install it with pip install plotly.") from error
    sections = sections_of(modalities)
    panels = [{"title": title, "panels": [asdict(panel) for panel in several]} for title, several in sections]
    numbers = [asdict(number) for number in numbers_of(modalities)]
    data = json.dumps({"cells": shown, "sections": panels, "numbers": numbers}, allow_nan=False).replace("</", "<\\/")
    style = styled("evaluations.boards", "dashboard.css")
    script = resources.files("evaluations.boards").joinpath("dashboard.js").read_text("utf-8")
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><title>NAMM dashboard</title>"
        f"<style>{style}</style><script>{get_plotlyjs()}</script></head><body>"
        "<header><h1>NAMM dashboard</h1><div id='filters'></div><div id='legend'></div></header>"
        "<main id='sections'></main>"
        f"<script id='data' type='application/json'>{data}</script><script>{script}</script></body></html>\n"
    )


def save_workspace(config: DashboardConfig) -> str:
    """Saves the dashboard in W&B and returns its address.

    Raises:
        ConfigError: It is not said whose workspace it is, or W&B could not be reached or refused.
        MissingExtraError: The package that describes workspaces is not installed.
    """
    project = config.project or default_project()
    entity = config.entity or os.environ.get("WANDB_ENTITY")
    if entity is None:
        raise ConfigError(
            "A workspace belongs to somebody, found nobody; pass --entity (your user name or team in W&B)."
        )
    view = workspace(entity, project, group=config.group)
    try:
        view.save()
    except Exception as error:  # whatever of W&B's or the network's errors it is, there is one thing to do
        raise ConfigError(
            f"expected W&B to take the workspace for {entity}/{project}, found {type(error).__name__}: {error}; log in "
            "(wandb login), upload the runs (wandb sync), and run this again"
        ) from error
    return str(view.url)


if __name__ == "__main__":
    sys.exit(main())
