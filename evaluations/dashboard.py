"""One self-contained page for any number of experiments: the panels of the W&B workspace, drawn from rows.jsonl.

    namm-dashboard results                          every experiment in it, as results/dashboard.html
    namm-dashboard results/rl results/ablation --out both.html
    namm-dashboard --wandb --entity TEAM            makes the same dashboard as a W&B workspace

On top is the transfer matrix; each of its cells opens what it was made of. The page is filtered and grouped in the
browser and works offline: data, films and the drawing library (plotly.js) are inside the file. It can be made while an
experiment is running.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from evaluations.boards.experiments import read_experiments
from evaluations.boards.page_data import page_data
from evaluations.boards.panels import numbers_of, sections_of
from evaluations.boards.wandb_package import project as default_project
from evaluations.boards.workspace import workspace
from evaluations.commands.exit import exit_code
from evaluations.report.page import styled
from evaluations.rows.trials import Trials
from evaluations.rows.trials import several as modalities_of
from namm.errors import ConfigError, MissingExtraError
from namm.files import write_atomically

SCRIPTS = ("panels.js", "matrix.js", "dashboard.js")
"""Of the page, in order: how panels are drawn, the matrix and what a cell opens, and what is chosen."""

BODY = (
    "<header><h1>NAMM dashboard</h1>"
    "<details id='choice'><summary>Filter and group</summary><div id='filters'></div></details></header>"
    "<main><div id='matrix'></div><div id='legend'></div><div id='sections'></div></main>"
    "<dialog id='opened' aria-labelledby='opened-title'></dialog>"
)
SMALLER = "\\u003c"
"""What JSON reads as "<": no name may begin a tag or a comment where the browser looks for the end of the data."""


@dataclass(frozen=True)
class DashboardConfig:
    """What `namm-dashboard` can be told."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("results"),)
    """Folders of experiments, as every command writes them to its --out, or folders that contain such ones."""

    out: Path | None = None
    """The page. Default: dashboard.html in the first folder."""

    videos: int = 40
    """Most films to put into the page, and most pictures of memory; NAMM's come first."""

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
        console = Console()

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

        say(f"dashboard  {save_workspace(config) if config.wandb else write_page(config, say)}")

    return exit_code(work, "nothing was written; run the same command again")


def write_page(config: DashboardConfig, say: Callable[[str], None] = print) -> Path:
    """Writes the local page and returns its path.

    Args:
        config: Of which folders, and where to.
        say: Is told what is not in the page.

    Raises:
        ConfigError: No folder is named.
        MissingExtraError: The drawing library is not installed.
        DataError: A folder is not there, or no rows are in any.
    """
    if not config.folders:
        raise ConfigError(
            "namm-dashboard needs at least one results folder, found none; name what an experiment was given as --out."
        )
    path = config.out or config.folders[0] / "dashboard.html"
    experiments = read_experiments(config.folders)
    modalities = modalities_of([row for experiment in experiments for row in experiment.rows])
    data = page_data(experiments, config.videos)
    for line in (*(remark for view in data["matrices"] for remark in view["remarks"]), *data["left_out"]):
        say(line)
    write_atomically(path, render(data, modalities))
    return path


def render(data: Mapping[str, Any], modalities: Sequence[Trials]) -> str:
    """The page as text.

    Args:
        data: Everything that is shown (evaluations/boards/page_data.py).
        modalities: Of all of it.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("The page needs plotly, found none; install it with pip install plotly.") from error
    sections = sections_of(modalities)
    own = {
        trials.modality: {panel for _, several in sections_of([trials]) for panel in several} for trials in modalities
    }
    panels = [
        {
            "title": title,
            "panels": [
                asdict(panel) | {"modalities": [name for name, known in own.items() if panel in known]}
                for panel in several
                if panel.kind != "matrix"
            ],
        }
        for title, several in sections
    ]
    numbers = [asdict(number) for number in numbers_of(modalities)]
    told = json.dumps({**data, "sections": panels, "numbers": numbers}, allow_nan=False, separators=(",", ":"))
    files = resources.files("evaluations.boards")
    script = "".join(files.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><title>NAMM dashboard</title>"
        f"<style>{styled('evaluations.boards', 'dashboard.css')}</style><script>{get_plotlyjs()}</script></head><body>"
        f"{BODY}<script id='data' type='application/json'>{told.replace('<', SMALLER)}</script>"
        f"<script>{script}</script></body></html>\n"
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
