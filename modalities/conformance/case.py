"""A case: the prompts that a clause is tried on, and what the stock model and a memory that keeps all say of them.

A clause that fails is tried again on smaller cases (counterexample.py), so cases are cut by rows and by tokens, and
what is computed for one clause is kept for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalities.conformance.subject import Subject
from namm.memory import Memory
from namm.policies import Policy, make_policy

INTERVAL = 16
BUDGET = 10
ALONE = 18
"""Tokens at the end of prompts that are fed one by one where a model takes no longer pieces: more than an interval."""
STOCK_ERRS = 1e-2
"""From here on a stock model that disagrees with itself (padded and not, in pieces and whole) is no reference."""

NEVER_CALLED = "inside `attach` no layer called memory.attend: the model attends without it"

Outcome = Literal["holds", "fails", "does not apply"]


@dataclass(frozen=True)
class Counterexample:
    """The smallest prompts found on which a clause fails."""

    prompts: tuple[tuple[int, ...], ...]
    """Token ids of each row, padding left out."""
    detail: str
    """What is wrong there."""

    def __str__(self) -> str:
        lengths = " and ".join(str(len(prompt)) for prompt in self.prompts)
        prompts = "1 prompt" if len(self.prompts) == 1 else f"{len(self.prompts)} prompts"
        return f"{prompts} of {lengths} token{'' if lengths == '1' else 's'}: {self.detail}"


@dataclass(frozen=True)
class Check:
    """What became of one clause."""

    name: str
    outcome: Outcome
    detail: str
    """What was measured, what is wrong, or why it does not apply."""
    note: str = ""
    """What the stock model itself does not do, so that nothing can be compared."""
    counterexample: Counterexample | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.outcome != "fails"


@dataclass(frozen=True)
class Clause:
    """One clause of the contract."""

    name: str
    guards: str
    """What goes wrong where it is broken."""
    check: Callable[[Case], Check]
    shrinks: bool = True
    """Whether a failure is looked for on smaller prompts."""
    compares: bool = True
    """Whether outputs are compared, which differ where rounding tips a choice of the model's."""


@dataclass(frozen=True)
class Kept:
    """What a memory that keeps everything gave, and held."""

    outputs: Tensor
    seen: list[int]
    repeated: str
    """Which KV heads of a layer are the same; empty where none are."""


@dataclass
class Case:
    """Left-padded prompts of one subject."""

    subject: Subject
    ids: Int[Tensor, "batch columns"]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, subject: Subject, seed: int = 1) -> Case:
        """The prompts that a subject is examined on, drawn from a seed."""
        lengths, longest = subject.lengths, max(subject.lengths)
        drawn = torch.randint(
            len(subject.tokens), (len(lengths), longest), generator=torch.Generator().manual_seed(seed)
        )
        ids = subject.tokens[drawn.to(subject.tokens.device)]
        mask = padding_mask(lengths, ids.device)
        return cls(subject, subject.placed(torch.where(mask.bool(), ids, subject.tokens[0]), mask), lengths)

    @property
    def mask(self) -> Int[Tensor, "batch columns"] | None:
        """1 for tokens, 0 for padding; None for subjects that heed none, and for rows of one length."""
        if not self.subject.padded or len(set(self.lengths)) == 1:
            return None
        return padding_mask(self.lengths, self.ids.device)

    def row(self, row: int) -> Int[Tensor, "1 tokens"]:
        """One prompt without its padding."""
        return self.ids[row : row + 1, self.ids.shape[1] - self.lengths[row] :]

    def even(self) -> Int[Tensor, "rows tokens"]:
        """The beginnings of all prompts, as long as the shortest, as a batch without padding."""
        shortest = min(self.lengths)
        return torch.cat([self.row(row)[:, :shortest] for row in range(len(self.lengths))])

    def cut(self, kept: Sequence[tuple[int, int]]) -> Case:
        """The first tokens of some rows.

        Args:
            kept: Rows, with the tokens that are left of each.
        """
        longest = max(tokens for _, tokens in kept)
        rows = [torch.nn.functional.pad(self.row(row)[0, :tokens], (longest - tokens, 0)) for row, tokens in kept]
        lengths = tuple(tokens for _, tokens in kept)
        ids, mask = torch.stack(rows), padding_mask(lengths, self.ids.device)
        return Case(self.subject, torch.where(mask.bool(), ids, self.subject.tokens[0]), lengths)

    @cached_property
    def stock(self) -> Float[Tensor, "batch columns width"]:
        """Outputs of the stock model."""
        return self.subject.run(self.ids, self.mask, None)[0]

    @cached_property
    def before(self) -> str:
        """Of the subject, when this is asked for the first time."""
        return self.subject.fingerprint()

    @cached_property
    def kept(self) -> Kept:
        """The same under a memory that keeps everything."""
        with self.subject.attach(keeping()) as memory:
            outputs, _ = self.subject.run(self.ids, self.mask, None)
            return Kept(outputs, memory.seen.tolist(), _repeated_heads(memory))

    @cached_property
    def feeding(self) -> Feeding:
        """How the stock model can be fed in pieces."""
        ids = self.even()
        whole, _ = self.subject.run(ids, None, None)
        columns = ids.shape[1]
        begun = max(1, columns - ALONE)
        ways = (
            ((1, 20, 37, 38, columns), ""),
            ((begun, begun + 9, begun + 10, columns), "stock itself errs where the first call is short"),
            ((begun, *range(begun + 1, columns + 1)), "stock itself errs when fed several tokens after the first call"),
        )
        for stops, note in ways:
            stops = tuple(sorted({min(stop, columns) for stop in stops}))
            own = _own_error(self.subject, ids, whole, stops)
            if own <= STOCK_ERRS:
                return Feeding(ids, whole, stops, own, note)
        return Feeding(ids, whole, (), 0.0, "the stock model itself cannot be fed in pieces")


@dataclass(frozen=True)
class Feeding:
    """A way to feed prompts in pieces that the stock model itself takes."""

    ids: Int[Tensor, "batch columns"]
    whole: Tensor
    """Outputs of the stock model in one call."""
    stops: tuple[int, ...]
    """Where each piece ends; empty where it takes none."""
    own: float
    """How far the stock model is then from itself."""
    note: str


def prompts(subject: Subject) -> tuple[Int[Tensor, "batch columns"], Int[Tensor, "batch columns"]]:
    """The prompts that a subject is examined on, left-padded, and their mask."""
    case = Case.of(subject)
    return case.ids, padding_mask(case.lengths, case.ids.device)


def padding_mask(lengths: Sequence[int], device: torch.device) -> Int[Tensor, "batch columns"]:
    """1 for tokens, 0 for padding, which comes first."""
    longest = max(lengths)
    return (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long().to(device)


def keeping() -> Policy:
    """A policy that keeps everything."""
    return make_policy("full", interval=INTERVAL)


def evicting(name: str = "random", **options: Any) -> Policy:
    """A policy that lets go early: each head keeps others."""
    return make_policy(name, interval=INTERVAL, budget=BUDGET, protected_last=4, **options)


def difference(wanted: Tensor, found: Tensor, mask: Tensor | None = None) -> Float[Tensor, "batch tokens"]:
    """Largest difference of each token's outputs, in units of the largest value; padding aside."""
    wanted, found = wanted.float(), found.float()
    apart = (wanted - found).abs().amax(-1) / wanted.abs().max().clamp_min(1e-6)
    return apart if mask is None else apart.masked_fill(mask[:, -apart.shape[1] :] == 0, 0.0)


def compared(
    name: str, wanted: Tensor, found: Tensor, tolerance: float, mask: Tensor | None = None, note: str = ""
) -> Check:
    """Equal to rounding, padding aside."""
    if wanted.shape != found.shape:
        return Check(name, "fails", f"expected outputs of shape {list(wanted.shape)}, found {list(found.shape)}")
    apart = difference(wanted, found, mask)
    worst = float(apart.max())
    where = ""
    if not worst <= tolerance:  # also NaN
        row, column = divmod(int((~(apart <= tolerance)).flatten().int().argmax()), apart.shape[1])
        where = f"; first in row {row} at column {column}"
    outcome = "holds" if worst <= tolerance else "fails"
    return Check(name, outcome, f"largest difference {worst:.1e} of {tolerance:.0e}{where}", note)


def in_pieces(subject: Subject, ids: Tensor, stops: Sequence[int]) -> Tensor:
    """Outputs of a batch that is fed up to each of these columns in turn."""
    outputs, cache, start = [], None, 0
    for stop in stops:
        output, cache = subject.run(ids[:, start:stop], None, cache)
        outputs.append(output)
        start = stop
    return torch.cat(outputs, 1)


def _own_error(subject: Subject, ids: Tensor, whole: Tensor, stops: Sequence[int]) -> float:
    """How far the stock model is from itself when fed in pieces; infinite where it does not take them at all."""
    try:
        return float(difference(whole, in_pieces(subject, ids, stops)).max())
    except (RuntimeError, ValueError, IndexError):
        return float("inf")


def _repeated_heads(memory: Memory) -> str:
    """Which KV heads hold the very same keys and values, of at least two tokens."""
    for index, layer in sorted(memory.layers.items()):
        cache = layer.cache
        if not cache.batch or int(cache.slots()[0, 0]) < 2:
            continue
        packed, tail = cache.packed_index()[0], int(cache.tail_lengths[0])
        keys = torch.cat([cache.kept("keys", packed)[0], cache.tail_keys[0, :, :tail]], dim=1)
        values = torch.cat([cache.kept("values", packed)[0], cache.tail_values[0, :, :tail]], dim=1)
        for one in range(cache.kv_heads):
            for other in range(one + 1, cache.kv_heads):
                if torch.equal(keys[one], keys[other]) and torch.equal(values[one], values[other]):
                    return f"layer {index}: KV heads {one} and {other} of {cache.kv_heads} hold the same"
    return ""
