"""The command that makes something again, for its card: whatever a config says that its defaults do not."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def command_of(script: str, config: Any, unsaid: Collection[str] = ()) -> str:
    """A line for a shell.

    Args:
        script: File of the recipe, from the repository's root.
        config: A dataclass that can be made without arguments; its fields may be such dataclasses.
        unsaid: Fields that do not change what is made, such as folders.
    """
    return shlex.join(["python", script, *_options(config, type(config)(), unsaid, "")])


def _options(config: Any, default: Any, unsaid: Collection[str], before: str) -> Iterator[str]:
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        name = before + field.name.replace("_", "-")
        if field.name in unsaid or value == usual:
            continue
        if is_dataclass(value):
            yield from _options(value, usual, (), f"{name}.")
        elif isinstance(value, bool):
            yield f"--{name}" if value else f"--{before}no-{field.name.replace('_', '-')}"
        else:
            yield f"--{name}"
            yield from map(_said, value if isinstance(value, tuple) else (value,))


def _said(value: Any) -> str:
    """Of a folder elsewhere its name: where it lies is this machine's affair. What lies in the repository is found."""
    elsewhere = isinstance(value, str | Path) and Path(value).is_absolute() and Path(value).exists()
    return Path(value).name if elsewhere else str(value)
