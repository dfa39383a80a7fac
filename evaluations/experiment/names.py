"""Policies by name (evaluations/rows/policy_names.py): which names there are, and the policies that they stand for.

A name's own options win over what an experiment decides for all of its policies; what only the experiment may decide
(its sizes, its NAMM, its draws) is no option of a name.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import checkpoints
import namm
from evaluations.rows.policy_names import BY_HEAD, FULL, KEEP, NAMM, NATIVE, Option, PolicyName
from namm.compat import read_released
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.features import StatisticsMode
from namm.policies import POLICIES, PRESETS, Policy, Selection, make_policy

SHIPPED = Path(checkpoints.__file__).parent / "namm" / "text-v2"
"""The NAMM that is attached where none is named."""
STATISTICS: tuple[str, ...] = get_args(StatisticsMode)
NAMMS = tuple(f"{NAMM}:{mode}" for mode in STATISTICS)
"""A NAMM by whose feature statistics it reads."""
RELEASED = f"{NAMM}:released"
"""A NAMM in the released code's arithmetic."""
DECIDED = frozenset({
    "budget", "candidate", "head_budgets", "interval", "namm", "population", "seed", "statistics", "target_statistics",
    "special_ids", "punctuation_ids", "request", "resume", "answer",
})  # fmt: skip
"""What an experiment decides for all of its policies, or finds out about the model."""
GIVEN_APART = {"self", "selection", "namm", "target_statistics", "population", "candidate"}


@dataclass(frozen=True)
class NamedPolicy:
    """A policy as a user names it."""

    name: PolicyName

    @classmethod
    def of(cls, written: str) -> NamedPolicy:
        """Without asking whether there is such a policy."""
        return cls(PolicyName.parse(written))

    @property
    def label(self) -> str:
        """In rows and tables."""
        return str(self.name)

    @property
    def is_namm(self) -> bool:
        """Whether it decides for itself how much it keeps."""
        return self.name.base == NAMM

    @property
    def is_reference(self) -> bool:
        """Nobody asks it to forget."""
        return self.name.base in (FULL, NATIVE)

    @property
    def is_rival(self) -> bool:
        """It must be told how many slots to keep."""
        return not self.is_reference and not self.is_namm and self.keep is None

    @property
    def by_head(self) -> bool:
        """Whether it gets a size for each layer and head."""
        return self.name.by_head

    @property
    def statistics(self) -> str | None:
        """Whose feature statistics a NAMM reads."""
        return self.name.variant if self.name.variant in STATISTICS else None

    @property
    def protected_first(self) -> int:
        """Oldest tokens that it never evicts."""
        own = POLICIES[self.name.base].defaults.get("protected_first", 0) if self.name.base in POLICIES else 0
        return int(self.option("protected_first", own))

    def option(self, key: str, otherwise: Any) -> Any:
        """One of its own options, or what the experiment has for all."""
        return dict(self.name.options).get(key, otherwise)

    @property
    def keep(self) -> float | None:
        """The part of the tokens that it is sized to keep; None leaves its threshold where it is."""
        return self.option(KEEP, None)

    def sized(self, keep: float) -> NamedPolicy:
        """The same policy, to keep a part of the tokens under one threshold."""
        return NamedPolicy(replace(self.name, options=(*self.name.options, (KEEP, keep))))

    def takes(self, option: str) -> bool:
        """Whether it has an option, such as a seed."""
        return option in _options_of(self.name.base)

    def make(self, **told: Any) -> Policy:
        """The policy.

        Args:
            told: What the experiment decides; a NAMM's `namm`, and `target_statistics` where it reads the target's.

        Raises:
            ConfigError: An option is impossible.
        """
        options = {**told, **{key: value for key, value in self.name.options if key != KEEP}}
        if self.keep is not None and options.get("threshold") is None:
            raise ConfigError(
                f"{self.label}: a size is found by reading beforehand, which is not done here; leave {KEEP} out."
            )
        if self.label == FULL:
            return make_policy(FULL)
        if self.statistics is not None:
            options["statistics"] = self.statistics
        preset = self.name.plain if self.name.plain in PRESETS else self.name.base
        return make_policy(preset, **options)


def rivals(streams: bool = False) -> tuple[str, ...]:
    """Every policy that a NAMM is compared with, wherever tokens come from.

    Args:
        streams: Only those that can judge a stream, of which nobody can read ahead what follows.
    """
    # what tokens are worth by a judgement from outside only some experiments know; these name such policies themselves
    found = (name for name in POLICIES if name not in (FULL, NAMM) and not POLICIES[name].reads_grades)
    return tuple(name for name in found if not (streams and reads_ahead(name)))


def reads_ahead(name: str) -> bool:
    """Whether a policy wants what follows, or a second reading: neither is there in a stream."""
    return POLICIES[name].foresees is not None


def named(written: Sequence[str], known: Iterable[str], streams: bool = False) -> tuple[NamedPolicy, ...]:
    """Policies as users write them, each once, in order.

    Args:
        written: Names.
        known: Those that the experiment can play, without options.
        streams: Whether it plays streams.

    Raises:
        UnknownNameError: A policy is not known.
        ConfigError: A name is not written as one, or has an option that it cannot have; or there is none.
    """
    accepted = tuple(known)
    found: dict[NamedPolicy, None] = {}
    for text in written:
        name = PolicyName.parse(text)
        if name.plain not in accepted:
            if streams and name.base in POLICIES and reads_ahead(name.base):
                raise ConfigError(
                    f"Policy {name.base!r} reads ahead what follows, which in a stream depends on what is done; "
                    "expected one that judges by the past."
                )
            raise UnknownNameError(f"Unknown policy {text!r}. {did_you_mean(name.plain, (NAMM, *accepted))}")
        _check_options(name, streams)
        found[NamedPolicy(name)] = None
    if not found:
        raise ConfigError("--policy must name at least one, found none.")
    return tuple(found)


def with_heads(names: Iterable[str]) -> tuple[str, ...]:
    """The same at the NAMM's size head by head."""
    return tuple(f"{name}{BY_HEAD}" for name in names)


def policy_of(
    written: str, namm: str | Path | None, arguments: Mapping[str, Any], others: Iterable[str] = ()
) -> tuple[Policy, dict[str, Any]]:
    """The policy out of a name and named arguments, and the arguments that are not its own.

    Args:
        written: A name; here its options may be anything, for nobody else decides.
        namm: Folder of a NAMM or a file of the released trainer; None for the shipped one.
        arguments: Options of the policy among others.
        others: Names of arguments that are surely not the policy's; one that is none of these but is spelt almost like
            an option is a mistake.

    Raises:
        NammError: The name is unknown, an option is impossible, or the NAMM cannot be read.
    """
    policy = NamedPolicy.of(written)
    known = (FULL, *rivals(), f"{NAMM}:source", f"{NAMM}:sequence", RELEASED)
    if policy.name.plain not in known:
        raise UnknownNameError(f"Unknown policy {written!r}. {did_you_mean(policy.name.plain, (NAMM, *known))}")
    own = _options_of(policy.name.base) - GIVEN_APART
    given = {**arguments, **dict(policy.name.options)}
    options = {key: value for key, value in given.items() if key in own}
    rest = {key: value for key, value in given.items() if key not in options}
    _check_spelling(set(rest) - set(others), own | {"policy", "namm"})
    if policy.is_namm:
        network = load_namm(namm)
        options["namm"] = network
        if policy.statistics is not None:
            options = {"interval": network.config.interval, "statistics": policy.statistics, **options}
    elif namm is not None:
        raise ConfigError(f"namm={str(namm)!r} goes with policy=namm, found policy={written}; leave one of them out.")
    return make_policy(RELEASED if policy.label == RELEASED else policy.name.base, **options), rest


def load_namm(path: str | Path | None) -> namm.NAMM:
    """A NAMM from a folder, a file of the released trainer, or, without a path, the shipped one."""
    place = SHIPPED if path is None else Path(path)
    return read_released(place) if place.is_file() else namm.NAMM.from_pretrained(place)


def judges_by_threshold(name: PolicyName) -> bool:
    """Whether one threshold can take the place of a budget: not where the policy is a way to divide a budget."""
    if name.base == NAMM:
        return name.variant in STATISTICS
    divides = {"layer_allocation", "head_allocation"}
    return name.base not in (FULL, NATIVE) and not divides & ({*POLICIES[name.base].defaults} | {*dict(name.options)})


def _options_of(base: str) -> set[str]:
    if base not in POLICIES:
        return set()
    return {field.name for field in fields(Selection)} | set(inspect.signature(POLICIES[base].__init__).parameters)


def _check_options(name: PolicyName, streams: bool) -> None:
    """Raises ConfigError for an option that a policy does not have, or that the experiment decides."""
    own = _options_of(name.base) - GIVEN_APART - DECIDED
    told: Mapping[str, Option] = dict(name.options)
    for key, value in told.items():
        if key == KEEP and judges_by_threshold(name):
            if not isinstance(value, float) or not 0.0 < value < 1.0 or "threshold" in told or name.by_head:
                raise ConfigError(
                    f"{KEEP} is a part of the tokens between 0 and 1 and moves the threshold, found {str(name)!r}; "
                    f"write {name.plain}({KEEP}=0.25), without a threshold or the size of a NAMM."
                )
            continue
        if key in DECIDED:
            raise ConfigError(
                f"{key!r} is the same for all policies of an experiment, found it in {str(name)!r}; drop it."
            )
        if key not in own or name.base in (FULL, NATIVE):
            raise ConfigError(
                f"Policy {name.base!r} has no option {key!r}. {did_you_mean(key, own) if own else 'It has none.'}"
            )
        if streams and key == "schedule" and value != "interval":
            raise ConfigError(f"A stream has no prompt to be judged once, found {str(name)!r}; drop its schedule.")


def _check_spelling(unknown: Iterable[str], options: set[str]) -> None:
    """Raises ConfigError for an argument that was meant for the policy."""
    for name in sorted(unknown):
        if difflib.get_close_matches(name, options, n=1, cutoff=0.75):
            raise ConfigError(f"Unknown argument {name!r}. {did_you_mean(name, options)}")
