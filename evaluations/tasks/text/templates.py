"""Prompt templates, which are others' text: read at run time from the benchmark's own files, filled, never executed.

A template names its fields in braces. Only plain names are filled; attributes, indices and conversions, which Python's
`format` would follow into objects, are refused. Where a source keeps its templates in a Python file, the constants
assigned there are read from its syntax tree.
"""

from __future__ import annotations

import ast
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluations.tasks.text.records import read_json
from namm.errors import DataError


@dataclass(frozen=True)
class Template:
    """A text with fields in braces, and the file it came from."""

    text: str
    source: str

    def fill(self, fields: Mapping[str, object], context: str = "context") -> tuple[str, int | None]:
        """The prompt, and where its context ends.

        Args:
            fields: Text or number of each field.
            context: The field whose end is wanted.

        Returns:
            The prompt, and the number of its characters up to the end of the context; None if it has no such field.

        Raises:
            DataError: The template is malformed or has a field that is not given; the message names the file.
        """
        parts: list[str] = []
        end: int | None = None
        try:
            pieces = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise DataError(f"{self.source}: expected a template with fields in braces, found: {error}") from None
        for literal, name, spec, conversion in pieces:
            parts.append(literal)
            if name is None:
                continue
            if name not in fields or spec or conversion:
                raise DataError(
                    f"{self.source}: expected the fields {', '.join(sorted(fields))} in the template, found "
                    f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
                )
            parts.append(str(fields[name]))
            if name == context:
                end = sum(map(len, parts))
        return "".join(parts), end


def find_file(places: Sequence[Path], what: str, where_from: str) -> Path:
    """The first of several places where a file is.

    Args:
        places: In the order of preference.
        what: The file holds, for the message.
        where_from: How to get it, for the message.

    Raises:
        DataError: It is in none of them.
    """
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        f"expected {what} at {' or '.join(str(place) for place in places)}, found no such file; {where_from}"
    )


def read_table(path: Path, kind: type[Any], entry: str) -> dict[str, Any]:
    """A JSON file with one value a task.

    Args:
        path: The file.
        kind: Of the values, `str` or `int`.
        entry: What a value is, for messages.

    Raises:
        DataError: The file is not of that form.
    """
    table = read_json(path.read_bytes(), path)
    wrong = (
        [name for name, value in table.items() if not isinstance(value, kind) or isinstance(value, bool)]
        if isinstance(table, dict)
        else ["-"]
    )
    if wrong:
        raise DataError(f"{path}: expected a JSON object with {entry} a task, found another value at {wrong[0]!r}")
    return table


def read_constants(path: Path) -> dict[str, Any]:
    """What a Python file assigns to its module's names, as far as it is made of constants; the file is not run.

    Texts that are added up count as constants; whatever is computed is passed over.

    Raises:
        DataError: The file is no Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path}: expected a Python file with templates, found: {error}") from None
    constants: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                constants[node.targets[0].id] = _constant(node.value)
            except _ComputedError:
                continue
    return constants


class _ComputedError(Exception):
    """An expression is not made of constants."""


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Dict):
        return {
            _constant(key): _constant(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    if isinstance(node, ast.List | ast.Tuple):
        return [_constant(part) for part in node.elts]
    if isinstance(node, ast.Set):
        return {_constant(part) for part in node.elts}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _constant(node.left), _constant(node.right)
        if isinstance(left, str) and isinstance(right, str):
            return left + right
    raise _ComputedError
