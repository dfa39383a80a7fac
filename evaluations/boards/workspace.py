"""The dashboard as a Weights & Biases workspace, built from the same panels as the local page.

`workspace` builds the whole object without a network; saving it needs an account. It shows the runs of a project
grouped by target and policy, so every line and bar is a mean over seeds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evaluations.boards.panels import Panel, numbers_of, sections_of
from evaluations.rows.trials import registered
from namm.errors import MissingExtraError

GROUP_BY = ("target", "policy")
"""Keys of a run's config that the workspace groups by; any other key can be chosen on the page."""


def workspace(entity: str, project: str, name: str = "NAMM transfer", group: str | None = None) -> Any:
    """The workspace.

    Args:
        entity: User or team that the project belongs to.
        project: Name of the project.
        name: Name of the view.
        group: Only runs of this group (an experiment or a suite); None shows all.

    Raises:
        MissingExtraError: The package that describes workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise MissingExtraError(
            "A W&B workspace needs the package wandb-workspaces, found none; install it with "
            "pip install 'namm-suite[dashboard]' (in a checkout: pip install -e '.[dashboard]')."
        ) from error
    known = list(registered().values())
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=title, panels=[made for panel in panels for made in _panels(panel)], is_open=True)
            for title, panels in sections_of(known)
        ],
        runset_settings=workspaces.RunsetSettings(
            groupby=[workspaces.Config(key) for key in GROUP_BY],
            filters=[] if group is None else [workspaces.Metric("Group") == group],
            pinned_columns=[f"summary:{number.name}" for number in numbers_of(known)],
        ),
    )


def _panels(panel: Panel) -> list[Any]:
    """A panel as W&B has them: a table shows what is logged under one key."""
    return [_panel(replace(panel, y=(key,))) for key in panel.y] if panel.kind == "table" else [_panel(panel)]


def _panel(panel: Panel) -> Any:
    from wandb_workspaces.reports import v2

    # Any: what is W&B's own to check goes by name to plots of different kinds
    titles: dict[str, Any] = {"title": panel.title, "title_x": panel.x_title or None, "title_y": panel.y_title or None}
    if panel.kind == "bars":
        averaged: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
        return v2.BarPlot(metrics=list(panel.y), orientation="h", groupby=v2.Config("policy"), **titles, **averaged)
    if panel.kind == "scatter":
        x, y = v2.SummaryMetric(panel.against), v2.SummaryMetric(panel.y[0])
        return v2.ScatterPlot(title=panel.title, x=x, y=y, log_x=panel.log_x)
    if panel.kind in ("lines", "trials"):
        averaged: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        return v2.LinePlot(
            x=v2.Metric(panel.against),
            y=[v2.Metric(name) for name in panel.y],
            log_x=panel.log_x or None,
            **titles,
            **averaged,
        )
    if panel.kind in ("table", "matrix"):
        return v2.WeavePanelSummaryTable(table_name=panel.y[0])
    return v2.MediaBrowser(title=panel.title, media_keys=list(panel.y))
