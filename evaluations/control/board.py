"""What the dashboards show of control's rows: episodes, the cache over time, what is remembered, and cues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from evaluations.analysis.survival import cue_points
from evaluations.boards.panels import Board, Entry, Number, Panel, lines
from evaluations.control.memory_figures import KIND_COLOURS, KINDS
from evaluations.control.shipped import SHIPPED, SUITES
from evaluations.rows.file import Row

CUE_POINTS = 40
"""Points of a cue's survival curve."""
AXES = {
    "cache": "cache/env_step",
    "retention": "retention/env_step",
    "age": "age/env_steps",
    "cue": "cue/env_steps_since",
}


def history(row: Row) -> Iterator[Entry]:
    """The cache over one episode, what is kept by kind and by age, and the survival of cues."""
    trace = row.get("trace") or {}
    for step, slots in zip(trace.get("steps", ()), trace.get("slots", ()), strict=True):
        yield {AXES["cache"]: step, "cache/slots": slots}
    yield from _kinds(row.get("retention") or {})
    yield from _ages(row.get("retention") or {})
    for since, held, heads in cue_points([row], CUE_POINTS):
        yield {AXES["cue"]: since, "cue/held": held, "cue/heads": heads}


def suite(row: Row, settings: Mapping[str, Any]) -> str | None:
    """The suite that the experiment was asked for and that has the row's target."""
    return next((name for name in settings.get("suite") or () if row["target"] in SUITES.get(name, ())), None)


def dataset(row: Row, settings: Mapping[str, Any]) -> str:
    """What the model was trained on, as far as names tell."""
    shipped = SHIPPED.get(row["target"])
    return str(settings.get("dataset") or (shipped.folder if shipped else row["target"]))


def _kinds(told: Mapping[str, Any]) -> Iterator[Entry]:
    kinds = told.get("kinds") or {}
    for index, step in enumerate(told["steps"] if kinds else ()):
        held = {f"retention/{kind}": held[index] for kind, held in kinds.items() if held[index] is not None}
        yield {AXES["retention"]: step} | held


def _ages(told: Mapping[str, Any]) -> Iterator[Entry]:
    if not told.get("layers"):
        return
    layers = np.array(told["layers"], dtype=float)
    for column in np.flatnonzero(np.isfinite(layers).all(axis=0)):
        yield {AXES["age"]: told["age_edges"][column], "age/kept_fraction": float(layers[:, column].mean())}


BOARD = Board(
    sections=(
        (
            "Episodes",
            (
                Panel("Return", "trials", ("episode/return",), "episode/index", y_title="return"),
                Panel("Episode length", "trials", ("episode/length",), "episode/index", y_title="environment steps"),
            ),
        ),
        (
            "Memory",
            (
                lines(
                    "Cache over one episode",
                    "cache/slots",
                    axis=AXES["cache"],
                    x_title="environment step",
                    y_title="slots per KV head",
                    help="The first episode of the first seed.",
                ),
                Panel(
                    "Time per step",
                    "bars",
                    ("ms_per_env_step",),
                    x_title="ms per environment step",
                    help="Model, memory and policy, without the simulator, shared by the episodes of a batch.",
                ),
            ),
        ),
        (
            "What is remembered",
            (
                Panel(
                    "Kept by kind of token",
                    "bars",
                    tuple(f"kept_fraction_{kind}" for kind in KINDS),
                    x_title="share of the tokens seen so far, mean over time",
                    percent=True,
                    help="Return-to-go R, state s, action a.",
                    names=tuple(KINDS.values()),
                    colours=tuple(KIND_COLOURS.values()),
                ),
                lines(
                    "Kept over the episode, states",
                    "retention/s",
                    axis=AXES["retention"],
                    x_title="environment step",
                    y_title="share of the states seen so far",
                    percent=True,
                ),
                lines(
                    "Kept by age",
                    "age/kept_fraction",
                    axis=AXES["age"],
                    x_title="age of the token, environment steps",
                    y_title="share kept",
                    log_x=True,
                    percent=True,
                    help="Mean over time, layers and heads; a point stands for the ages up to the next one.",
                ),
                Panel(
                    "Over one episode",
                    "media",
                    ("memory",),
                    help="Which tokens the heads hold as time goes on, and the shares kept; the first seed.",
                ),
                Panel(
                    "Layers and heads",
                    "heads",
                    ("memory",),
                    x_title="age of the token, environment steps",
                    help="Share kept, mean over time and episodes.",
                ),
            ),
        ),
        (
            "Cues",
            (
                lines(
                    "Cue survival",
                    "cue/held",
                    axis=AXES["cue"],
                    x_title="environment steps since the cue",
                    y_title="share of cues held by at least one head",
                    percent=True,
                    help="Kaplan-Meier estimate; tasks that show nothing to remember are absent.",
                ),
                Panel(
                    "Cue held when needed",
                    "bars",
                    ("cue_held",),
                    x_title="share of cues held by at least one head",
                    percent=True,
                    help="A lost token is not yet lost information: compare with the score.",
                ),
            ),
        ),
        (
            "Videos",
            (Panel("One episode", "media", ("video",), help="Below the scene: the memory, bright where held."),),
        ),
    ),
    axes=AXES,
    history=history,
    numbers=(
        Number("cue_held", "cue held %", digits=0, factor=100),
        Number("episode_length", "length", digits=0),
        Number("ms_per_env_step", "ms/step", digits=2),
    ),
    checkpoints={"decision-transformer": "checkpoint_sha256"},
    group_keys=("checkpoint_sha256", "target_return"),
    suite=suite,
    dataset=dataset,
)
