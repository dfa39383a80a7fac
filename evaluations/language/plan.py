"""Which policies read an exam, in which order and at which size.

The references and the NAMMs come first: a NAMM decides for itself. Then the rivals, each with the smallest budget whose
mean size, over the same prompts, is not below the NAMM's; `POLICY@heads` has as much as the NAMM in each layer and
head, so that what is left of the NAMM's lead is its choice of tokens, not of heads. All follows from rows alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluations.experiment.contract import FinishedRows
from evaluations.experiment.matching import prompt_budget
from evaluations.rows.file import Row, trials
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.policies import POLICIES

ALLOCATED = "@heads"
"""Ending of a rival that gets the NAMM's own allocation over layers and heads."""
NAMMS = ("namm:source", "namm:target", "namm:sequence", "namm:released")
"""A NAMM and whose feature statistics it uses; `released` is the released code's arithmetic with the source's."""
RIVALS = tuple(name for name in POLICIES if name not in ("full", "namm"))
NAMES = ("full", *NAMMS, *RIVALS, *(name + ALLOCATED for name in RIVALS))

Role = Literal["reference", "free", "matched", "given"]


@dataclass(frozen=True)
class TextPolicy:
    """A policy as a user names it."""

    label: str

    @property
    def name(self) -> str:
        """In the registry."""
        return "namm" if self.is_namm else self.label.removesuffix(ALLOCATED)

    @property
    def is_namm(self) -> bool:
        """Whether it decides for itself how much it keeps."""
        return self.label in NAMMS

    @property
    def is_rival(self) -> bool:
        """Whether it must be told."""
        return self.label != "full" and not self.is_namm

    @property
    def by_head(self) -> bool:
        """Whether it gets a size for each layer and head."""
        return self.label.endswith(ALLOCATED)

    @property
    def protected_first(self) -> int:
        """Oldest tokens that it never evicts."""
        return POLICIES[self.name].defaults.get("protected_first", 0)

    def takes(self, option: str) -> bool:
        """Whether its constructor knows an option, such as a seed."""
        return option in inspect.signature(POLICIES[self.name].__init__).parameters


@dataclass(frozen=True)
class Size:
    """How a rival's memory is bounded."""

    budget: int | None = None
    """Slots per KV head."""
    head_budgets: tuple[tuple[int, ...], ...] | None = None
    """The same for each layer and head."""
    kept_fraction: float | None = None
    """Slots per KV head / tokens of the prompt, prompt by prompt."""


@dataclass(frozen=True)
class TextUnit:
    """One policy at one size on one exam; its seeds are its cells."""

    target: str
    spec: TextPolicy
    seeds: tuple[int, ...]
    role: Role
    size: Size = Size()
    asked: float | None = None
    """Mean slots that it was to reach."""
    matched_to: str | None = None

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"{self.target} · {self.spec.label}"

    @property
    def budget(self) -> int | None:
        """Slots kept per KV head, where one number says it."""
        return self.size.budget

    def facts(self) -> dict[str, object]:
        """What a row says about its size."""
        declared = {"matched_by": "declared", "asked": self.asked} if self.matched_to else {}
        return {"role": self.role, "matched_to": self.matched_to, **declared}


@dataclass(frozen=True)
class TextPlan:
    """Policies and seeds on one exam."""

    target: str
    policies: tuple[TextPolicy, ...]
    seeds: tuple[int, ...]
    interval: int | None
    """Tokens between two updates; None where there is one update, after the context."""
    protected_last: int
    """Newest tokens that no policy evicts; no budget is smaller."""
    match: str | None
    """The NAMM whose mean size the rivals get; None where `size` says it."""
    size: Size = Size()
    """Of all policies that forget, where it is given."""
    cap: float | None = None
    """Most that a NAMM may keep of each prompt, where it is free."""

    def main(self, rows: FinishedRows) -> tuple[list[TextUnit], bool]:
        """The units that can be known so far, and whether these are all."""
        first = [self._first(spec) for spec in self.policies if not spec.is_rival or self.match is None]
        rivals = [spec for spec in self.policies if spec.is_rival]
        if not rivals or self.match is None:
            return first, True
        # what the rivals are matched to is read first
        first.sort(key=lambda unit: unit.spec.label != self.match)
        found = rows(first[0])
        if found is None:
            return first, False
        return [*first, *(self._matched(spec, found) for spec in rivals)], True

    def points(self, rows: FinishedRows) -> tuple[list[TextUnit], bool]:
        """There are no curves."""
        return [], True

    def most_cells(self) -> int:
        """Cells of the whole plan."""
        return len(self.policies) * len(self.seeds)

    def _first(self, spec: TextPolicy) -> TextUnit:
        if spec.label == "full":
            return TextUnit(self.target, spec, self.seeds, "reference")
        if self.size != Size():
            return TextUnit(self.target, spec, self.seeds, "given", self.size)
        return TextUnit(self.target, spec, self.seeds, "free", Size(kept_fraction=self.cap))

    def _matched(self, spec: TextPolicy, rows: Sequence[Row]) -> TextUnit:
        tokens = [prompt["tokens"] for row in rows for prompt in trials(row)]
        asked = float(np.mean([prompt["slots"] for row in rows for prompt in trials(row)]))
        least = spec.protected_first + self.protected_last
        size = Size(budget=prompt_budget(asked, tokens, self.interval, least))
        if spec.by_head:
            own = np.mean([row["metrics"]["head_slots"] for row in rows], axis=0).tolist()
            budgets = (tuple(prompt_budget(held, tokens, self.interval, least) for held in layer) for layer in own)
            size = Size(head_budgets=tuple(budgets))
        return TextUnit(self.target, spec, self.seeds, "matched", size, asked, self.match)


def parse_policies(names: Sequence[str], match: str | None, sized: bool) -> tuple[tuple[TextPolicy, ...], str | None]:
    """The policies, each once, and the label of the NAMM that rivals are matched to; None where a size is given.

    Args:
        names: As users write them; `namm` is `namm:source`.
        match: The NAMM that was named, if any.
        sized: Whether the size of all policies is given.

    Raises:
        UnknownNameError: A name is not known.
        ConfigError: Rivals have no size.
    """
    labels = ["namm:source" if name == "namm" else name for name in names]
    for name in labels:
        if name not in NAMES:
            raise UnknownNameError(f"Unknown policy {name!r}. {did_you_mean(name, ('namm', *NAMES))}")
    policies = tuple(TextPolicy(label) for label in dict.fromkeys(labels))
    if not policies:
        raise ConfigError("--policy must name at least one, found none.")
    allocated = [spec.label for spec in policies if spec.by_head]
    if sized:
        if match is not None:
            raise ConfigError(f"A size is given, so nothing is matched to {match!r}; leave out --match or the size.")
        if allocated:
            raise ConfigError(f"{', '.join(allocated)} take the size of a NAMM, and --budget gives another; leave one.")
        return policies, None
    rivals = [spec.label for spec in policies if spec.is_rival]
    namms = [spec.label for spec in policies if spec.is_namm]
    match = "namm:source" if match == "namm" else match
    if match is not None and match not in namms:
        raise ConfigError(f"{', '.join(rivals) or 'rivals'} are matched to {match!r}, not among --policy; add it.")
    if rivals and not namms:
        raise ConfigError(
            f"{', '.join(rivals)} need a size: pass --budget or --kept-fraction, or run a NAMM beside them to be "
            "matched to; add it."
        )
    return policies, match or (namms[0] if namms else None)
