"""What an experiment is made of, whatever it measures: units that are played, plans that name them, runners that play.

All experiments share how units are claimed, played, resumed, mirrored and shown (evaluations/experiment/session.py,
evaluations/experiment/workers.py); these are the pieces that a modality brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from evaluations.experiment.names import NamedPolicy
from evaluations.rows.file import Row
from evaluations.rows.results import Cell

Role = Literal["reference", "free", "matched", "given", "curve"]
"""Why a unit has its size: nobody asks it to forget; a NAMM decides; a NAMM's size; `--budget`; a point of a curve."""


@dataclass(frozen=True)
class Size:
    """How a policy's memory is bounded; by nothing, where it decides for itself or nobody asks it to forget."""

    budget: int | None = None
    """Slots per KV head."""
    head_budgets: tuple[tuple[int, ...], ...] | None = None
    """The same for each layer and head."""
    kept_fraction: float | None = None
    """Slots per KV head / tokens of a trial, trial by trial."""


UNBOUNDED = Size()
"""Of a policy that nobody bounds."""


@dataclass(frozen=True)
class Matched:
    """Whose size was asked for."""

    to: str
    """Label of the NAMM."""
    by: Literal["best", "declared"]
    """Whether scores chose that NAMM, or the user."""
    asked: float
    """Mean slots per KV head that it held."""
    budget: int | None = None
    """Where one number says the size: what was found,"""
    predicted: float | None = None
    """and the mean that it is predicted to hold."""

    def facts(self) -> dict[str, object]:
        """As a row tells it."""
        told = {"budget": self.budget, "predicted": self.predicted}
        known = {name: value for name, value in told.items() if value is not None}
        return {"matched_to": self.to, "matched_by": self.by, "asked": self.asked, **known}


@dataclass(frozen=True)
class Unit:
    """One policy at one size on one target; cells that differ in nothing but the seed, played together."""

    target: str
    """Names the runner that plays it."""
    spec: NamedPolicy
    seeds: tuple[int, ...]
    """One cell each."""
    role: Role
    size: Size = UNBOUNDED
    matched: Matched | None = None
    share: float | None = None
    """The part of a trial's tokens that the size stands for, where that was asked for."""

    @property
    def budget(self) -> int | None:
        """Slots kept per KV head, where one number says it."""
        return self.size.budget

    @property
    def label(self) -> str:
        """What the display calls it."""
        size = f" · budget {self.budget}" if self.role == "curve" else ""
        return f"{self.target} · {self.spec.label}{size}"

    def facts(self) -> dict[str, object]:
        """What a row says about its size."""
        told = {"matched_to": None} if self.matched is None else self.matched.facts()
        share = {} if self.share is None else {"share": self.share}
        return {"role": self.role, **told, **share}


FinishedRows = Callable[[Unit], Sequence[Row] | None]
"""All rows of a unit, or None while any is missing."""


class Plan(Protocol):
    """The units of one target, in order; later ones may follow from the rows of earlier ones. Its repr names it."""

    def main(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units of the comparison that can be known so far, and whether these are all."""
        ...

    def points(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        """The units of curves, and whether they can be known so far."""
        ...

    def most_cells(self) -> int:
        """Cells of the whole plan at most."""
        ...


class Runner(Protocol):
    """Plays the units of one target."""

    modality: ClassVar[str]
    """Whose trials are played (evaluations/rows/trials.py)."""

    def cell(self, unit: Unit, seed: int, versions: Mapping[str, str]) -> Cell:
        """One cell of a unit, its identity holding everything that decides the result."""
        ...

    def run(self, unit: Unit, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Plays cells of a unit and returns the content of each one's row."""
        ...


class Setup(Protocol):
    """What a worker process needs to know to play any unit; it is pickled."""

    @property
    def threads(self) -> int:
        """Of torch, in each process."""
        ...

    def load(self, index: int = 0) -> Mapping[str, Runner]:
        """A runner for every target, by name."""
        ...


@dataclass(frozen=True)
class Media:
    """Shown beside the numbers of a row: a picture of its memory (PNG), a video of one trial (GIF), a page (HTML)."""

    picture: Path | None = None
    video: Path | None = None
    html: Path | None = None
    """A whole page: what was kept of a trial."""


class Mirror(Protocol):
    """Whatever shows finished rows elsewhere, such as Weights & Biases."""

    def is_tracked(self, rows: Sequence[Row]) -> bool:
        """Whether all of these rows are there already, or nothing is mirrored."""
        ...

    def mirror(self, rows: Sequence[Row], media: Media | None = None) -> list[str]:
        """Shows the rows that are not there yet, and says where; what cannot be shown costs nothing but a line."""
        ...

    def unsaid(self) -> list[str]:
        """Lines to tell that have come up since this was last asked."""
        ...
