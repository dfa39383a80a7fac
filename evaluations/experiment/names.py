"""A policy out of named arguments, as a command line of `key=value` gives them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import checkpoints
from namm import NAMM
from namm.compat import read_released
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.policies import POLICIES, PRESETS, Policy, Selection, make_policy

SHIPPED = Path(checkpoints.__file__).parent / "namm" / "text-v2"
STATISTICS = {"namm:source": "source", "namm:sequence": "sequence"}
"""A NAMM that names whose feature statistics it reads. The target's own need a pass over its data first."""
GIVEN_APART = {"self", "selection", "namm", "target_statistics", "population", "candidate"}


def policy_of(
    name: str, namm: str | Path | None, arguments: Mapping[str, Any], others: Iterable[str] = ()
) -> tuple[Policy, dict[str, Any]]:
    """The policy, and the arguments that are not its own.

    Args:
        name: Of a policy or a preset, or a NAMM with its statistics.
        namm: Folder of a NAMM or a file of the released trainer; None for the shipped one.
        arguments: Options of the policy among others.
        others: Names of arguments that are surely not the policy's; one that is none of these but is spelt almost like
            an option is a mistake.

    Raises:
        NammError: The name is unknown, an option is impossible, or the NAMM cannot be read.
    """
    known = [*POLICIES, *PRESETS, *STATISTICS]
    if name not in known:
        raise UnknownNameError(f"Unknown policy {name!r}. {did_you_mean(name, known)}")
    base = "namm" if name in STATISTICS else name
    kind = POLICIES[PRESETS[base][0] if base in PRESETS else base]
    own = {field.name for field in fields(Selection)} | set(inspect.signature(kind.__init__).parameters)
    options = {key: value for key, value in arguments.items() if key in own - GIVEN_APART}
    rest = {key: value for key, value in arguments.items() if key not in options}
    _check_spelling(set(rest) - set(others), own - GIVEN_APART | {"policy", "namm"})
    if kind.name == "namm":
        network = load_namm(namm)
        options["namm"] = network
        if base == "namm":
            options = {"interval": network.config.interval, **options}
        if name in STATISTICS:
            options["statistics"] = STATISTICS[name]
    elif namm is not None:
        raise ConfigError(f"namm={str(namm)!r} goes with policy=namm, found policy={name}; leave one of them out.")
    return make_policy(base, **options), rest


def load_namm(path: str | Path | None) -> NAMM:
    """A NAMM from a folder, a file of the released trainer, or, without a path, the shipped one."""
    place = SHIPPED if path is None else Path(path)
    return read_released(place) if place.is_file() else NAMM.from_pretrained(place)


def _check_spelling(unknown: Iterable[str], options: set[str]) -> None:
    """Raises ConfigError for an argument that was meant for the policy."""
    for name in sorted(unknown):
        if difflib.get_close_matches(name, options, n=1, cutoff=0.75):
            raise ConfigError(f"Unknown argument {name!r}. {did_you_mean(name, options)}")
