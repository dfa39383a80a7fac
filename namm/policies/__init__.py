"""The registry of eviction policies: one file a policy, one line here, or an entry point of another package."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.outside import Registry
from namm.policies.adakv import AdaKV
from namm.policies.base import Places, Policy, Queries, Selection, State, TokenView
from namm.policies.compactor import Compactor
from namm.policies.expected_attention import ExpectedAttention
from namm.policies.fastgen import FastGen
from namm.policies.fastv import FastV
from namm.policies.full import Full
from namm.policies.graded import Graded
from namm.policies.h2o import H2O, H2OByAge
from namm.policies.keydiff import KeyDiff
from namm.policies.kvzip import KVzip
from namm.policies.l2_norm import L2Norm
from namm.policies.lagkv import LagKV
from namm.policies.leverage import Leverage
from namm.policies.namm import NAMMPolicy
from namm.policies.oldest import Oldest
from namm.policies.oracle import Oracle
from namm.policies.pyramidkv import PyramidKV
from namm.policies.random import Random
from namm.policies.scissorhands import Scissorhands
from namm.policies.selection import check_number
from namm.policies.snapkv import SnapKV
from namm.policies.tova import TOVA
from namm.policies.window import SinkWindow, Window
from namm.typed import Origin, check_arguments

GROUP = "namm.policies"
"""Entry points of packages that bring policies of their own; each names a subclass of `Policy`."""


def _policy(thing: Any) -> type[Policy] | None:
    fits = isinstance(thing, type) and issubclass(thing, Policy) and not inspect.isabstract(thing)
    return thing if fits else None


POLICIES: Registry[type[Policy]] = Registry(
    (
        Full,
        Window,
        SinkWindow,
        Oldest,
        Random,
        H2O,
        H2OByAge,
        Scissorhands,
        TOVA,
        SnapKV,
        PyramidKV,
        AdaKV,
        FastGen,
        L2Norm,
        KeyDiff,
        LagKV,
        Leverage,
        Compactor,
        ExpectedAttention,
        KVzip,
        Oracle,
        Graded,
        FastV,
        NAMMPolicy,
    ),
    _policy,
    "a subclass of Policy that scores",
    GROUP,
)

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    # the released code, exactly: its interval, its equal heads, its rounding (namm/attention/eager.py)
    "namm:released": (
        "namm",
        {"interval": 512, "threshold": 0.0, "protected_last": 1, "heads": "equal", "eager_chunk": 128},
    ),
    "relevance": ("graded", {"by": "relevance"}),
    "redundancy": ("graded", {"by": "redundancy"}),
}
"""Policies with options set, under names of their own; an option that is given goes before the preset's."""

__all__ = ["POLICIES", "PRESETS", "Places", "Policy", "Queries", "Selection", "State", "TokenView", "make_policy"]


def make_policy(name: str, **options: Any) -> Policy:
    """A policy by name.

    Args:
        name: A key of ``POLICIES`` or ``PRESETS``.
        options: Fields of :class:`Selection` (``interval``, ``budget``, ``protected_last``, ...) and arguments of the
            policy's own constructor (``seed``, ``namm``, ``statistics``, ...). An option that is None is left at
            its default, except ``interval`` of the full cache.

    Raises:
        UnknownNameError: No such policy.
        ConfigError: An option that this policy does not have, lacks, or that is of another kind than it says, or a
            policy that evicts but has no rule to do so.
    """
    if name not in POLICIES and name not in PRESETS:
        raise UnknownNameError(f"Unknown policy {name!r}. {did_you_mean(name, (*POLICIES, *PRESETS))}")
    given = {key: value for key, value in options.items() if value is not None}
    if name in PRESETS:
        name, preset = PRESETS[name]
        given = {**preset, **given}
    policy = POLICIES[name]
    selection_names = {field.name for field in fields(Selection)}
    own_names = set(inspect.signature(policy.__init__).parameters) - {"self", "selection"}
    unknown = set(given) - selection_names - own_names
    if unknown:
        wrong = sorted(unknown)[0]
        raise ConfigError(
            f"Policy {name!r} has no option {wrong!r}. {did_you_mean(wrong, selection_names | own_names)}"
        )
    for limit in ("threshold", "steepness", "safeguard"):
        check_number(limit, given.get(limit))
    selection = policy.make_selection({key: value for key, value in given.items() if key in selection_names})
    limits = (selection.budget, selection.head_budgets, selection.threshold)
    if name != "full" and limits == (None, None, None):
        raise ConfigError(f"Policy {name!r} needs a budget (slots per KV head); without one it would keep everything.")
    own = {key: value for key, value in given.items() if key in own_names}
    for argument in inspect.signature(policy.__init__).parameters.values():
        needed = argument.default is argument.empty and argument.kind is argument.POSITIONAL_OR_KEYWORD
        if needed and argument.name not in ("self", "selection", *own):
            raise ConfigError(f"Policy {name!r} needs the option {argument.name!r}, found none; give it one.")
    check_arguments(policy.__init__, own, Origin(f"policy {name!r}"))
    return policy(selection, **own)
