"""What every process of a transfer experiment loads: the targets of all columns, and every NAMM attached to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from evaluations.experiment.contract import Runner
from namm import NAMM


class Attachable(Runner, Protocol):
    """A runner that can be had with another NAMM."""

    def attached(self, namm: NAMM) -> Self:
        """A runner of the same target with that NAMM."""
        ...


class Loadable(Protocol):
    """Targets of a column."""

    def load(self, index: int = 0) -> Mapping[str, Attachable]:
        """A runner for every target, by name."""
        ...


@dataclass(frozen=True)
class TransferSetup:
    """Columns and NAMMs."""

    columns: tuple[tuple[str, Loadable], ...]
    """Name of each, and what it loads, without a NAMM."""
    namms: tuple[tuple[str, Path], ...]
    """Name of each, and its folder."""
    threads: int

    def load(self, index: int = 0) -> dict[str, Attachable]:
        """Runners by name: of each target, and of each target with each NAMM.

        Args:
            index: Of this process among those of this machine; where there are several GPUs, each gets its own.

        Raises:
            NammError: Anything wrong with a model, its files or a NAMM.
        """
        namms = {name: NAMM.from_pretrained(folder) for name, folder in self.namms}
        found: dict[str, Attachable] = {}
        for column, setup in self.columns:
            for target, runner in setup.load(index).items():
                found[target_of(column, target)] = runner
                for name, namm in namms.items():
                    found[attached_to(target_of(column, target), name)] = runner.attached(namm)
        return found


def target_of(column: str, target: str) -> str:
    """What a target of a column is called."""
    return f"{column} › {target}"


def column_of(target: str) -> str:
    """The column of a target, with a NAMM or without."""
    return target.partition(" › ")[0]


def attached_to(target: str, namm: str) -> str:
    """What it is called with a NAMM."""
    return f"{target} · {namm}"
