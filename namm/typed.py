"""One typed, finite check for whatever enters from outside: JSON files, attributes of data, options.

What is expected is said once, by the annotations of a dataclass (`Annotated[int, Range(least=1)]`). Nothing is guessed:
text is no number, 20.0 is no whole number, true is no 1, NaN is nothing. Converted is only what means the same (1 to
1.0, a list to a tuple, text to a path). Whatever does not fit raises one line: file, field, expected, found.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from namm.errors import CheckpointError, ConfigError, NammError, did_you_mean

Kind = TypeVar("Kind")
LONGEST = 60
"""Characters of a wrong value that a message shows."""


@dataclass(frozen=True)
class Range:
    """Where a number may lie; marks an annotation, as in ``Annotated[float, Range(above=0)]``."""

    least: float | int | None = None
    above: float | int | None = None
    most: float | int | None = None
    below: float | int | None = None

    def holds(self, value: float | int) -> bool:
        """Whether a number lies in it."""
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        return low and (self.most is None or value <= self.most) and (self.below is None or value < self.below)

    def __str__(self) -> str:
        parts = [
            "" if self.least is None else f"of {self.least:g} or more",
            "" if self.above is None else f"above {self.above:g}",
            "" if self.most is None else f"of {self.most:g} or less",
            "" if self.below is None else f"below {self.below:g}",
        ]
        return " and ".join(part for part in parts if part)


Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]


@dataclass(frozen=True)
class Origin:
    """Where values come from, as an error names it."""

    name: str = ""
    """Of the file or thing; empty for options of a command line."""
    error: type[NammError] = ConfigError
    """What is raised."""
    advice: str = "correct it"
    """What to do."""

    def wrong(self, field: str, expected: str, found: object) -> NammError:
        """The error that a field is."""
        place = f"{field} of {self.name}" if field and self.name else self.name or option(field)
        return self.error(f"expected {expected} in {place}, found {shown(found)}; {self.advice}")


OPTIONS = Origin()
"""Options of a command line, which are named as they are written there."""


class _UnfitError(Exception):
    """A value that is not what is expected; `path` leads to it from the field that is checked, as in "[3].mean"."""

    def __init__(self, expected: str, found: object, path: str = "") -> None:
        super().__init__(expected, found, path)
        self.expected, self.found, self.path = expected, found, path


def option(field: str) -> str:
    """How a field is written on a command line."""
    return f"--{field.replace('_', '-')}"


def shown(value: object) -> str:
    """A wrong value as a message shows it: short, and of what type where that is what is wrong."""
    words: dict[Any, str] = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{text} (text)" if isinstance(value, str) else text


def read_json(path: Path, error: type[NammError] = CheckpointError) -> Any:
    """The content of a JSON file.

    Args:
        path: Of the file.
        error: What is raised.

    Raises:
        NammError: There is no such file, it is not JSON, or an object in it has a key twice.
    """
    try:
        return json.loads(path.read_text("utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise error(f"expected a JSON file at {path}, but the file does not exist; check the path") from None
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"expected JSON in {path}, found a damaged file ({reason}); copy it again") from reason


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def build(kind: type[Kind], values: Any, origin: Origin, optional: Collection[str] | None = None) -> Kind:
    """A dataclass out of a JSON object: every key known, every value of its field's type.

    Args:
        kind: The dataclass.
        values: What the file holds.
        origin: Where it comes from.
        optional: Fields that may be missing; by default those that have a default value.

    Raises:
        NammError: It is no object, a key is missing or unknown, a value does not fit, or the whole is impossible.
    """
    known = _kinds(kind)
    if optional is None:
        optional = [entry.name for entry in dataclasses.fields(kind) if _has_default(entry)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise origin.error(f"expected an object in {origin.name}, found {shown(values)}; {origin.advice}")
    lost, strange = sorted(known.keys() - values.keys() - set(optional)), sorted(values.keys() - known.keys())
    if lost or strange:
        hint = did_you_mean(strange[0], known) if strange else f"Known: {', '.join(sorted(known))}."
        raise origin.error(
            f"expected the keys of a {kind.__name__} in {origin.name}, found missing keys {lost}, unknown keys "
            f"{strange}; {origin.advice}. {hint}"
        )
    converted = {name: typed(value, known[name], name, origin) for name, value in values.items()}
    try:
        return kind(**converted)
    except (ConfigError, CheckpointError) as reason:  # what its own check says of fields together
        raise origin.error(f"{origin.name} is impossible: {reason}") from reason


def check_fields(instance: Any, origin: Origin = OPTIONS, before: str = "") -> None:
    """Raises unless every field of a dataclass holds what its annotation says.

    Args:
        instance: The dataclass; dataclasses in it are checked too.
        origin: Where its values come from.
        before: Put before the names of its fields.
    """
    for name, kind in _kinds(type(instance)).items():
        typed(getattr(instance, name), kind, f"{before}{name}", origin)


def check_arguments(call: Callable[..., Any], given: Mapping[str, Any], origin: Origin = OPTIONS) -> None:
    """Raises unless numbers, words and choices that a function is given are what its annotations say.

    Args:
        call: The function, or a constructor.
        given: Some of its arguments; those of other kinds (tensors, models) are its own business.
        origin: Where they come from.
    """
    kinds = get_type_hints(call, include_extras=True)
    for name, value in given.items():
        if name in kinds and _is_plain(kinds[name]):
            typed(value, kinds[name], name, origin)


def typed(value: Any, kind: Any, field: str, origin: Origin) -> Any:
    """A value that fits an annotation, in the annotation's type.

    Args:
        value: What was found.
        kind: The annotation: bool, int, float, str, Path, Any (plain JSON), None, Literal, tuple, dict, a dataclass,
            unions of these, and `Annotated` with a `Range`. Of other classes it must be an instance.
        field: What it is called there.
        origin: Where it comes from.

    Raises:
        NammError: It does not fit.
    """
    try:
        return _fit(value, kind)
    except _UnfitError as unfit:
        raise origin.wrong(f"{field}{unfit.path}", unfit.expected, unfit.found) from None


def described(kind: Any) -> str:
    """What an annotation expects, in words."""
    form, parts = get_origin(kind), get_args(kind)
    if form is Annotated:
        return " ".join([described(parts[0]), *(str(mark) for mark in parts[1:] if isinstance(mark, Range))])
    if form in (Union, types.UnionType):
        return " or ".join(described(part) for part in parts)
    if form is Literal:
        return "one of " + ", ".join(repr(part) for part in parts)
    if form is tuple and parts[-1:] != (...,):
        return f"a list of {len(parts)}"
    words: dict[Any, str] = {
        bool: "true or false", int: "a whole number", float: "a finite number", str: "text", Path: "a path",
        type(None): "null", dict: "an object", tuple: "a list",
    }  # fmt: skip
    return words.get(form or kind) or getattr(kind, "__name__", str(kind))


def _is_plain(kind: Any) -> bool:
    """Whether an annotation speaks of numbers, words, choices or None alone."""
    form, parts = get_origin(kind), get_args(kind)
    if form in (Union, types.UnionType):
        return all(_is_plain(part) for part in parts)
    return form is Literal or (parts[0] if form is Annotated else kind) in (bool, int, float, str, type(None))


def _has_default(entry: dataclasses.Field[Any]) -> bool:
    return not (entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING)


@cache
def _kinds(kind: type[Any]) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved, marks included."""
    hints = get_type_hints(kind, include_extras=True)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(kind)}


def _fit(value: Any, kind: Any) -> Any:
    """The value in the type of an annotation; _UnfitError where it does not fit."""
    form, parts = get_origin(kind), get_args(kind)
    try:
        if form is Annotated:
            found = _fit(value, parts[0])
            marks = [mark for mark in parts[1:] if isinstance(mark, Range)]
            if isinstance(found, int | float) and not all(mark.holds(found) for mark in marks):
                raise _UnfitError("", value)
            return found
        if form in (Union, types.UnionType):
            return _fit_one(value, parts)
    except _UnfitError as unfit:
        if unfit.path:  # what lies inside says best what it should be
            raise
        raise _UnfitError(described(kind), value) from None
    if form is Literal:
        fits = any(type(value) is type(part) and value == part for part in parts)
    elif (form or kind) is tuple:
        return _fit_tuple(value, kind)
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, kind):
        for name, inner in _kinds(type(value)).items():
            _inside(f".{name}", getattr(value, name), inner)
        return value
    elif kind is Any or (form or kind) is dict:
        return _fit_json(value, needs_object=kind is not Any)
    elif kind is float:
        if not _is_finite(value):
            raise _UnfitError(described(kind), value)
        return float(value)
    elif kind is Path:
        if not isinstance(value, str | Path) or not str(value):
            raise _UnfitError(described(kind), value)
        return Path(value)
    elif kind is int:
        fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    else:
        fits = not isinstance(form or kind, type) or isinstance(value, form or kind)
    if not fits:
        raise _UnfitError(described(kind), value)
    return value


def _fit_one(value: Any, parts: tuple[Any, ...]) -> Any:
    """A value of a union: the first part that it fits; of one part beside None, what is wrong inside it."""
    if value is None and type(None) in parts:
        return None
    some = [part for part in parts if part is not type(None)]
    for part in some:
        try:
            return _fit(value, part)
        except _UnfitError:
            if len(some) == 1:
                raise
    raise _UnfitError("", value)


def _fit_tuple(value: Any, kind: Any) -> tuple[Any, ...]:
    parts = get_args(kind) or (Any, ...)
    if isinstance(value, list | tuple) and parts[-1] is ...:
        parts = parts[:1] * len(value)
    if not isinstance(value, list | tuple) or len(value) != len(parts):
        raise _UnfitError(described(kind), value)
    return tuple(_inside(f"[{i}]", item, part) for i, (item, part) in enumerate(zip(value, parts, strict=True)))


def _fit_json(value: Any, needs_object: bool = False) -> Any:
    """Whatever JSON can say, its numbers finite."""
    if isinstance(value, Mapping):
        return {name: _inside(f".{name}", item, Any) for name, item in value.items()}
    if needs_object:
        raise _UnfitError("an object", value)
    if isinstance(value, list):
        return [_inside(f"[{index}]", item, Any) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise _UnfitError("finite numbers", value)
    return value


def _inside(step: str, value: Any, kind: Any) -> Any:
    """What lies one step inside a value."""
    try:
        return _fit(value, kind)
    except _UnfitError as unfit:
        raise _UnfitError(unfit.expected, unfit.found, step + unfit.path) from None


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False
