"""One record of a benchmark's data, read with checks: what is missing or of another type is told with file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from namm.errors import DataError

SHOWN = 5
"""Broken records whose fault is spelled out; of further ones only the places are named."""


class Named(Protocol):
    """What is made of a record."""

    @property
    def id(self) -> str:
        """Its name within the task."""
        ...


Item = TypeVar("Item", bound=Named)


@dataclass(frozen=True)
class Record:
    """The fields of one row of a file, and where it lies."""

    fields: Mapping[str, Any]
    """As the file has them."""

    where: str
    """FILE:LINE, or FILE:row N where the file has no lines."""

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(name) is not None

    def text(self, *names: str, empty: bool = True) -> str:
        """A field that must be text.

        Args:
            names: Its name, then other names that mirrors of the data give it.
            empty: Whether it may be blank.

        Raises:
            DataError: It is missing, of another type, blank, or holds half a surrogate pair, which is no character.
        """
        value = self._value(names)
        if not isinstance(value, str):
            raise self.fault(f"text in {names[0]!r}", _kind(value))
        if not empty and not value.strip():
            raise self.fault(f"text in {names[0]!r}", "nothing but white space")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self.fault(f"Unicode text in {names[0]!r}", "half a surrogate pair (\\ud800 to \\udfff)")
        return value

    def texts(self, *names: str, least: int = 1) -> tuple[str, ...]:
        """A field that must be a list of texts, of at least `least`; a text alone counts as a list of one.

        Raises:
            DataError: It is missing, of another type, or too short.
        """
        value = self._value(names)
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(part, str) for part in listed):
            inner = [_kind(part) for part in listed if not isinstance(part, str)] if isinstance(listed, list) else []
            raise self.fault(
                f"a list of texts in {names[0]!r}", f"a list with {inner[0]} in it" if inner else _kind(value)
            )
        if len(listed) < least:
            raise self.fault(f"at least {least} in {names[0]!r}", f"{len(listed)}")
        return tuple(Record({names[0]: part}, self.where).text(names[0]) for part in listed)

    def integer(self, name: str) -> int:
        """A field that must be a whole number, 0 or more.

        Raises:
            DataError: It is missing, of another type, or negative.
        """
        value = self._value((name,))
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fault(f"a whole number in {name!r}", _kind(value))
        return value

    def one_of(self, name: str, allowed: Iterable[str]) -> str:
        """A field that must be one of some words.

        Raises:
            DataError: It is missing or another word.
        """
        value = self.text(name)
        known = list(allowed)
        if value not in known:
            raise self.fault(f"one of {', '.join(known)} in {name!r}", repr(value))
        return value

    def _value(self, names: tuple[str, ...]) -> Any:
        for name in names:
            if self.has(name):
                return self.fields[name]
        fields = f"the fields {', '.join(self.fields)}" if self.fields else "no fields"
        found = "null" if any(name in self.fields for name in names) else fields
        raise self.fault(" or ".join(repr(name) for name in names), found)

    def fault(self, expected: str, found: str) -> DataError:
        """An error about this record: what was expected, what was found, where."""
        return DataError(f"{self.where}: expected {expected}, found {found}")


def build_items(
    records: Iterable[Record | DataError], build: Callable[[Record], Item], source: str, limit: int | None
) -> list[Item]:
    """One item a record, up to `limit`; all broken records up to there are told in one error.

    Args:
        records: In the order of the file; what could not be read at all comes as the error it caused.
        build: Makes an item or raises a `DataError`.
        source: What the records are of, for the message.
        limit: The first so many only.

    Raises:
        DataError: Some records are broken, two have the same id, or there are none.
    """
    items: list[Item] = []
    faults: list[str] = []
    places: dict[str, str] = {}
    for record in records:
        if limit is not None and len(items) + len(faults) >= limit:
            break
        try:
            if isinstance(record, DataError):
                raise record
            item = build(record)
            if item.id in places:
                raise record.fault("an id of its own", f"that of {places[item.id]}, {item.id!r}")
            places[item.id] = record.where
            items.append(item)
        except DataError as error:
            faults.append(str(error))
    if faults:
        more = [fault.split(": expected")[0].rsplit(":", 1)[-1] for fault in faults[SHOWN:]]
        rest = f"\nand in {len(more)} more places: {', '.join(more[:50])}" if more else ""
        raise DataError(
            "\n".join(faults[:SHOWN])
            + rest
            + f"\n{len(faults)} broken of {len(faults) + len(items)} read of {source}; "
            "mend or remove them: nothing is skipped silently, because a score over fewer rows is another score"
        )
    if not items and limit != 0:
        raise DataError(f"expected records in {source}, found none; is the download complete?")
    return items


def lines_of(text: bytes, name: str) -> Iterator[Record | DataError]:
    """The records of a file with one JSON object a line, UTF-8; blank lines are passed over.

    Args:
        text: The whole file.
        name: Of the file, for messages.
    """
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield DataError(f"{name}:1: expected UTF-8, found the mark of UTF-16; save the file as UTF-8")
        return
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            yield _record(json.loads(line.decode("utf-8")), where)
        except UnicodeDecodeError as error:
            byte = f"the byte 0x{line[error.start]:02x} at place {error.start + 1} of the line"
            yield DataError(f"{where}: expected UTF-8, found {byte}")
        except (ValueError, RecursionError) as error:
            yield DataError(f"{where}: expected one JSON object on the line, found {_fault_of_json(line, error)}")


def list_of(text: bytes, name: str) -> Iterator[Record | DataError]:
    """The records of a file that is one JSON list of objects (or, as some mirrors have it, one object a line).

    Args:
        text: The whole file.
        name: Of the file, for messages.
    """
    if text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"[":
        yield from lines_of(text, name)
        return
    for number, value in enumerate(read_json(text, name), start=1):
        try:
            yield _record(value, f"{name}:row {number}")
        except DataError as error:
            yield error


def read_json(text: bytes, name: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: It is no UTF-8 or no JSON; the message names the line.
    """
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise DataError(f"{name}:{line}: expected UTF-8, found the byte 0x{text[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{name}:{error.lineno}: expected JSON, found {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}:1: expected JSON, found {error}") from None


def _record(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected one JSON object, found {_kind(value)}")
    return Record(value, where)


def _fault_of_json(line: bytes, error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        cut = error.pos >= len(line.decode("utf-8").rstrip()) - 1 or "Unterminated" in error.msg
        return f"{'a line that breaks off' if cut else error.msg} at column {error.colno}"
    return str(error)


def _kind(value: object) -> str:
    names = {str: "text", bool: "true or false", int: "the number", float: "the number", list: "a list"}
    name = names.get(type(value), "an object" if isinstance(value, dict) else "null")
    return f"{name} {value}" if name == "the number" else name
