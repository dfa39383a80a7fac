"""The NAMMs of a transfer experiment: found by name, folder or pattern, and put together into lines of one recipe."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import checkpoints
from namm import NAMM
from namm.errors import ConfigError, UnknownNameError, did_you_mean

SHIPPED_NAMMS = Path(checkpoints.__file__).parent / "namm"
_RUN = re.compile(r"[-_]seed[-_]?\d+$")
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Recipe:
    """What was run once or several times."""

    name: str
    runs: tuple[tuple[str, Path], ...]
    """Name and folder of each NAMM that it came to."""


def recipes(written: Sequence[str]) -> tuple[Recipe, ...]:
    """The recipes that are named, in order; each NAMM belongs to one.

    Args:
        written: Names of shipped NAMMs, folders, patterns of either, or LINE=A,B.

    Raises:
        UnknownNameError: Nothing has such a name.
        ConfigError: A NAMM is named for two lines, or none is named.
    """
    lines: dict[str, dict[str, Path]] = {}
    for text in written:
        line, given, members = text.partition("=")
        for part in members.split(",") if given else [text]:
            for folder in _folders(part.strip()):
                name = folder.resolve().name
                lines.setdefault(line.strip() if given else _RUN.sub("", name), {})[name] = folder
    if not lines:
        raise ConfigError("--namm must name at least one, found none.")
    at: dict[Path, str] = {}
    for line, runs in lines.items():
        for folder in runs.values():
            other = at.setdefault(folder.resolve(), line)
            if other != line:
                raise ConfigError(f"{folder} is named for two lines, {other!r} and {line!r}; leave one.")
    return tuple(Recipe(line, tuple(runs.items())) for line, runs in lines.items())


def statistics_of(namm: NAMM, wanted: str | None) -> str:
    """Whose feature statistics a NAMM reads: those wanted, else those that it was made with, of several the first."""
    return wanted or namm.config.trained_statistics.partition("+")[0]


def _folders(text: str) -> list[Path]:
    if _PATTERN.search(text):
        found = [Path(place) for place in sorted(glob.glob(text)) if (Path(place) / "config.json").is_file()]
        found = found or [folder for folder in sorted(SHIPPED_NAMMS.glob(text)) if (folder / "config.json").is_file()]
        if not found:
            raise UnknownNameError(f"No NAMM fits the pattern {text!r}. {did_you_mean(text, _shipped())}")
        return found
    for folder in (SHIPPED_NAMMS / text, Path(text)):
        if text and (folder / "config.json").is_file():
            return [folder]
    raise UnknownNameError(f"Unknown NAMM {text!r}: no folder, and none that ships. {did_you_mean(text, _shipped())}")


def _shipped() -> list[str]:
    return sorted(folder.name for folder in SHIPPED_NAMMS.iterdir() if (folder / "config.json").is_file())
