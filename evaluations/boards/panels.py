"""The panels of a dashboard, as one list: the Weights & Biases workspace and the local page both show these.

A number is named as a run names it (evaluations/boards/run_content.py): `score` is in a run's summary, `cache/slots`
in its history against the axis of its section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaluations.boards.run_content import AXES

Kind = Literal["bars", "scatter", "episodes", "lines", "heads", "media", "table"]


@dataclass(frozen=True)
class Panel:
    """One panel.

    `bars` and `scatter` show summary numbers, one value a run; `episodes` and `lines` show history; `heads` is the map
    of layers, heads and ages; `media` and `table` show what is logged under a key.
    """

    title: str
    kind: Kind
    y: tuple[str, ...]
    """Names of the numbers, or the key of what is shown."""
    x: str | None = None
    """What they are shown against."""
    x_title: str = ""
    y_title: str = ""
    help: str = ""
    """What is seen, in a sentence."""
    log_x: bool = False
    percent: bool = False
    """Numbers are shares, 0 to 1; the local page writes them in percent."""


def lines(title: str, *names: str, **options: str | bool) -> Panel:
    """History against the axis of its section."""
    return Panel(title, "lines", names, AXES[names[0].partition("/")[0]], **options)


SECTIONS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Score",
        (
            Panel(
                "Score by policy",
                "bars",
                ("score",),
                x_title="score",
                help="Normalised score, success rate or return; larger is better. All policies play the same episodes.",
            ),
            Panel(
                "Score against size",
                "scatter",
                ("score",),
                x="slots_mean",
                x_title="mean slots per KV head",
                y_title="score",
                log_x=True,
                help="Up and left is better. Points of one policy at several budgets are joined.",
            ),
        ),
    ),
    (
        "Episodes",
        (
            Panel("Return", "episodes", ("episode/return",), AXES["episode"], y_title="return"),
            Panel("Episode length", "episodes", ("episode/length",), AXES["episode"], y_title="environment steps"),
        ),
    ),
    (
        "Memory",
        (
            lines(
                "Cache over one episode",
                "cache/slots",
                x_title="environment step",
                y_title="slots per KV head",
                help="The first episode of the first seed.",
            ),
            Panel("Most bytes of keys and values", "bars", ("bytes_peak",), x_title="bytes per episode"),
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
                ("kept_fraction_R", "kept_fraction_s", "kept_fraction_a"),
                x_title="share of the tokens seen so far, mean over time",
                percent=True,
                help="Return-to-go R, state s, action a.",
            ),
            lines(
                "Kept over the episode, states",
                "retention/s",
                x_title="environment step",
                y_title="share of the states seen so far",
                percent=True,
            ),
            lines(
                "Kept by age",
                "age/kept_fraction",
                x_title="age of the token, environment steps",
                y_title="share kept",
                log_x=True,
                percent=True,
                help="Mean over time, layers and heads; a point stands for the ages up to the next one.",
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
    ("Videos", (Panel("One episode", "media", ("video",), help="Below the scene: the memory, bright where held."),)),
    ("Table", (Panel("All results", "table", ("episodes",)),)),
)
"""Sections of the dashboard, in order."""
