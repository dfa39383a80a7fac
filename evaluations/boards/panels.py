"""The panels of a dashboard, as one list: the Weights & Biases workspace and the local page both show these.

A number is named as a run names it (evaluations/boards/run_content.py): `score` is in a run's summary, `cache/slots`
in its history against the axis of its section. What all modalities show is here; the rest each brings in its `Board`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pkgutil import resolve_name
from typing import Any, Literal

from evaluations.rows.file import Row
from evaluations.rows.trials import Trials
from namm.errors import ConfigError

Kind = Literal["matrix", "bars", "scatter", "trials", "lines", "heads", "media", "table"]
Entry = Mapping[str, float]
"""One entry of a history: numbers by name, the axis of their section among them."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    `bars` and `scatter` show summary numbers, one value a run; `trials` and `lines` show history; `heads` is the map
    of layers, heads and ages; `media` and `table` show what is logged under a key. `matrix` stands above all others on
    the local page (evaluations/boards/matrix_view.py); in W&B it is the table of a run that `namm-sync` makes.
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
    names: tuple[str, ...] = ()
    """What several numbers of one panel are called."""
    colours: tuple[str, ...] = ()
    """And drawn in."""

    @property
    def against(self) -> str:
        """What the numbers are shown against.

        Raises:
            ConfigError: The panel does not say.
        """
        if self.x is None:
            raise ConfigError(f"expected the panel {self.title!r} to say what it is shown against, found no x; add it")
        return self.x


@dataclass(frozen=True)
class Number:
    """A column of the table of all results on the local page."""

    name: str
    title: str
    digits: int = 1
    factor: float = 1.0


Sections = tuple[tuple[str, tuple[Panel, ...]], ...]
"""Titles, each with its panels."""


@dataclass(frozen=True)
class Board:
    """What the dashboards show of a modality's rows, beside what they show of all."""

    sections: Sections = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    """Each section of the history, and what it is told against; that of the trials is there anyway."""
    history: Callable[[Row], Iterable[Entry]] = field(default=lambda row: ())
    """Of a row, beside its trials; a section of `axes` an entry."""
    numbers: tuple[Number, ...] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """Kinds of checkpoints beside the NAMM, and where a row's identity holds the digest of each."""
    group_keys: tuple[str, ...] = ()
    """Settings of a row's identity that runs are grouped and filtered by."""
    suite: Callable[[Row, Mapping[str, Any]], str | None] = field(default=lambda row, settings: None)
    """The suite that the experiment's settings name and that has the row's target."""
    example: Callable[[Row], str] = field(default=lambda row: "")
    """One trial of a row with what was kept of it, as HTML without scripts in which everything of others is escaped."""
    dataset: Callable[[Row, Mapping[str, Any]], str] = field(default=lambda row, settings: row["task"])
    """What a row's model was trained on or is asked about, as far as names tell."""


def board_of(trials: Trials) -> Board:
    """The board of a modality."""
    return Board() if trials.board is None else resolve_name(trials.board)


FIRST: Sections = (
    ("What is left of the full cache's score", (Panel("Transfer matrix", "matrix", ("matrix",)),)),
    (
        "Score",
        (
            Panel(
                "Score by policy",
                "bars",
                ("score",),
                x_title="score",
                help="In percent, or in its own units; larger is better. All policies are given the same trials.",
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
    ("Memory", (Panel("Most bytes of keys and values", "bars", ("bytes_peak",), x_title="bytes per trial"),)),
)
NUMBERS = (
    Number("score", "score"),
    Number("slots_mean", "slots"),
    Number("kept_fraction", "kept %", factor=100),
)
"""Columns of the table that all modalities have."""


def sections_of(several: Sequence[Trials]) -> Sections:
    """The sections for some modalities, in order; sections of one title are one."""
    table = Panel("All results", "table", tuple(trials.key for trials in several))
    found: dict[str, dict[Panel, None]] = {}
    for sections in (FIRST, *(board_of(trials).sections for trials in several), (("Table", (table,)),)):
        for title, panels in sections:
            found.setdefault(title, {}).update(dict.fromkeys(panels))
    return tuple((title, tuple(panels)) for title, panels in found.items())


def numbers_of(several: Sequence[Trials]) -> tuple[Number, ...]:
    """The columns of numbers in the table of all results."""
    return tuple(dict.fromkeys([*NUMBERS, *(n for trials in several for n in board_of(trials).numbers)]))


def lines(title: str, *names: str, axis: str, **options: Any) -> Panel:
    """History against the axis of its section."""
    return replace(Panel(title, "lines", names, axis), **options)
