"""What other packages bring: objects that their entry points name, loaded when somebody looks.

A package that is broken costs a warning and what it brings, and never the command that looked: whoever compares two
policies need not mend a third.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from namm.errors import ConfigError

Kind = TypeVar("Kind")
GROUPS = ("namm.policies", "namm.modalities", "namm.trials", "namm.tasks")
"""Groups of entry points that this project looks at."""


@dataclass(frozen=True)
class Brought:
    """One object of another package."""

    package: str
    """By the name that pip knows."""
    point: str
    """Name of its entry point."""
    thing: Any

    def leave_out(self, reason: object) -> None:
        """Warns that it is not used."""
        _warn(self.package, self.point, reason)


@cache
def brought(group: str) -> tuple[Brought, ...]:
    """Everything that entry points of a group name, in the order of their names; what cannot be loaded is warned of."""
    found = []
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        try:
            found.append(Brought(_package(point), point.name, point.load()))
        except Exception as error:  # whatever importing code that is not ours raises
            _warn(_package(point), point.name, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return tuple(found)


@cache
def outside_versions() -> dict[str, str]:
    """Version of every package that brings something, by its name."""
    points = [point for group in GROUPS for point in entry_points(group=group) if point.dist is not None]
    return {point.dist.name: point.dist.version for point in points if point.dist is not None}


class Registry(Mapping[str, Kind], Generic[Kind]):
    """Things of one kind by their own names: those that come with this project, and those of other packages.

    Args:
        known: What comes with the project.
        check: Gives a thing as it is registered, or None where it is none of this kind.
        wanted: What is expected, in words.
        group: Of the entry points.
        shared: Whether a thing is of a kind that others look for in the group, by default none; may raise a
            ConfigError for what nobody looks for.
    """

    def __init__(
        self,
        known: Iterable[Kind],
        check: Callable[[Any], Kind | None],
        wanted: str,
        group: str,
        shared: Callable[[Any], bool] = lambda thing: False,
    ) -> None:
        self._known: dict[str, Kind] = {}
        self._check, self._wanted, self._group, self._shared = check, wanted, group, shared
        self._looked = False
        for thing in known:
            self.register(thing)

    def register(self, thing: Any) -> Any:
        """Adds one to this process; as a decorator it gives it back.

        Raises:
            ConfigError: It is of another kind, or its name is another's.
        """
        made = self._check(thing)
        name = getattr(made, "name", None)
        if made is None or not isinstance(name, str) or not name:
            raise ConfigError(f"expected {self._wanted} with a name, found {thing!r}; mend what registers it")
        if self._known.get(name, made) != made:
            raise ConfigError(
                f"expected {self._wanted} with a name of its own, found {name!r} of {_home(made)}, which is that of "
                f"{_home(self._known[name])}; choose another name"
            )
        self._known[name] = made
        return thing

    def __getitem__(self, name: object) -> Kind:
        if not isinstance(name, str):  # as where whoever asks has no name
            raise KeyError(name)
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Kind]:
        if not self._looked:
            self._looked = True
            for one in brought(self._group):
                try:
                    if self._check(one.thing) is None and self._shared(one.thing):
                        continue
                    self.register(one.thing)
                except ConfigError as error:
                    one.leave_out(error)
        return self._known


def _home(thing: Any) -> str:
    return thing.__module__ if isinstance(thing, type) else type(thing).__module__


def _package(point: EntryPoint) -> str:
    return "unknown" if point.dist is None else point.dist.name


def _warn(package: str, point: str, reason: object) -> None:
    warnings.warn(
        f"{point!r} of the package {package} is left out: {reason}. Mend the package, or uninstall it.", stacklevel=2
    )
