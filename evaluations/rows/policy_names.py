"""How a policy is written, the same on every command line, in rows, tables, colours and arguments of lm_eval.

    window                          a policy
    namm:target                     a NAMM, and whose feature statistics it reads (also namm:released, its arithmetic)
    snapkv(schedule=prompt)         a policy with options
    window@heads                    in each layer and head as large as the NAMM was just there

Rows of releases that wrote "namm (target)" and "native window" are read under today's names, and go on: a cell's key
keeps the old spelling (`former`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

from namm.errors import ConfigError
from namm.policies import POLICIES

Option = str | int | float | bool
NAMM = "namm"
FULL = "full"
NATIVE = "native_window"
"""Not a policy of the registry: the model is used without any cache, on the newest steps alone."""
BY_HEAD = "@heads"
KEEP = "keep"
"""Option of whoever can judge by a threshold: the part of the tokens to keep; a pass without labels finds it."""
HELD_OUT = "namm (held out)"
"""No policy that runs: the NAMM that is put together out of others' choices (evaluations/analysis/variants.py)."""

FORMER = {
    NATIVE: "native window",
    **{f"{NAMM}:{source}": f"{NAMM} ({source})" for source in ("source", "target", "sequence")},
}
"""What names were in rows of earlier releases of control."""
_CURRENT = {former: name for name, former in FORMER.items()}
_WRITTEN = re.compile(r"(?P<base>\w[\w.-]*)(?::(?P<variant>\w+))?(?:\((?P<options>[^()]*)\))?(?P<by_head>@heads)?")


@dataclass(frozen=True)
class PolicyName:
    """A policy's name, taken apart."""

    base: str
    """In the registry."""
    variant: str | None = None
    """Of a NAMM: whose statistics it reads, or `released`."""
    options: tuple[tuple[str, Option], ...] = ()
    by_head: bool = False
    """Whether it gets the NAMM's size head by head."""

    @classmethod
    def parse(cls, written: str) -> Self:
        """Takes a name apart; `namm` alone is `namm:source`.

        Raises:
            ConfigError: It is not written as a name is.
        """
        found = _WRITTEN.fullmatch(written.strip())
        if found is None:
            raise ConfigError(
                f"expected a policy such as window, namm:source, window@heads or snapkv(schedule=prompt), found "
                f"{written!r}; mend the name"
            )
        variant = found["variant"] or ("source" if found["base"] == NAMM else None)
        options = _options(written, found["options"]) if found["options"] is not None else ()
        return cls(found["base"], variant, options, found["by_head"] is not None)

    def __str__(self) -> str:
        """As it is written."""
        variant = f":{self.variant}" if self.variant else ""
        told = ",".join(f"{key}={_text(value)}" for key, value in self.options)
        return f"{self.base}{variant}{f'({told})' if told else ''}{BY_HEAD if self.by_head else ''}"

    @property
    def plain(self) -> str:
        """Without options: what is looked up among the names that are known."""
        return str(replace(self, options=()))


@cache
def is_ceiling(policy: str) -> bool:
    """Whether a row's policy was shown what is to come: what could be had at its size, and no rival.

    Names that this installation does not know are those of other packages, and count as rivals.
    """
    try:
        known = POLICIES.get(PolicyName.parse(policy).base)
    except ConfigError:  # a label that no command takes, such as `HELD_OUT`
        return False
    return known is not None and known.foresees == "future"


def is_namm(policy: str) -> bool:
    """Whether a row's policy is a NAMM, whatever its statistics."""
    return re.fullmatch(rf"{NAMM}(\W.*)?", policy) is not None


def former(policy: str) -> str:
    """What a policy was called in the keys of rows before names were what they are."""
    return FORMER.get(policy, policy)


def with_current_names(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it would be written today."""
    memory = row.get("memory")
    if isinstance(memory, Mapping):
        name = memory.get("matched_to")
        told = {**memory, "matched_to": _CURRENT.get(name, name) if isinstance(name, str) else name}
        row = {**row, "memory": told if "matched_to" in memory else memory}
    return {**row, "policy": _CURRENT[row["policy"]]} if row.get("policy") in _CURRENT else row


def _options(written: str, told: str) -> tuple[tuple[str, Option], ...]:
    found: dict[str, Option] = {}
    for part in told.split(","):
        key, given, value = (piece.strip() for piece in part.partition("="))
        if not key.isidentifier() or not given or not value or key in found:
            raise ConfigError(
                f"expected options such as (schedule=prompt,safeguard=0.3) in {written!r}, found {part!r}"
            )
        found[key] = _value(value)
    return tuple(sorted(found.items()))


def _value(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
