"""What an experiment is made of, whatever it measures: units that are played, plans that name them, runners that play.

The control and the text experiment share how units are claimed, played, resumed, mirrored and shown
(evaluations/experiment/session.py, evaluations/experiment/workers.py); these are the pieces they bring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evaluations.rows.file import Row
from evaluations.rows.results import Cell


class Unit(Protocol):
    """Cells that differ in nothing but the seed and are played one after the other or as one batch. Hashable."""

    @property
    def target(self) -> str:
        """Names the runner that plays it."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """One cell each."""

    @property
    def role(self) -> str:
        """Why it has its size."""

    @property
    def budget(self) -> int | None:
        """Slots kept per KV head, where one number says it."""

    @property
    def label(self) -> str:
        """What the display calls it."""

    def facts(self) -> dict[str, object]:
        """What a row says about its size."""


FinishedRows = Callable[[Any], Sequence[Row] | None]
"""All rows of a unit, or None while any is missing."""


class Plan(Protocol):
    """The units of one target, in order; later ones may follow from the rows of earlier ones. Its repr names it."""

    def main(self, rows: FinishedRows) -> tuple[list[Any], bool]:
        """The units of the comparison that can be known so far, and whether these are all."""

    def points(self, rows: FinishedRows) -> tuple[list[Any], bool]:
        """The units of curves, and whether they can be known so far."""

    def most_cells(self) -> int:
        """Cells of the whole plan at most."""


class Runner(Protocol):
    """Plays the units of one target."""

    def cell(self, unit: Any, seed: int, versions: Mapping[str, str]) -> Cell:
        """One cell of a unit, its identity holding everything that decides the result."""

    def run(self, unit: Any, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Plays cells of a unit and returns the content of each one's row."""


class Setup(Protocol):
    """What a worker process needs to know to play any unit; it is pickled."""

    @property
    def threads(self) -> int:
        """Of torch, in each process."""

    def load(self, index: int = 0) -> Mapping[str, Runner]:
        """A runner for every target, by name."""


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

    def mirror(self, rows: Sequence[Row], media: Media | None = None) -> list[str]:
        """Shows the rows that are not there yet, and says where; what cannot be shown costs nothing but a line."""

    def unsaid(self) -> list[str]:
        """Lines to tell that have come up since this was last asked."""
