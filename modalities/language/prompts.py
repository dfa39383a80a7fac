"""Prompts as a language model reads them under a memory, and how those that begin alike share what was read.

A prompt is a context, read first, and a question, read when the memory has judged the context; then an answer is
generated, or the tokens that follow are scored. Prompts whose contexts begin with the same tokens are read once up to
there, and the memory is forked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from namm.errors import DataError

IGNORED = -100
"""Target where nothing is asked, as in Hugging Face losses."""

SHARED_PART = 0.5
"""Prompts share a beginning if it is at least this part of each context: a common instruction is not worth a fork."""


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt, and what is wanted of it."""

    context: tuple[int, ...]
    """Read first; what is held at its end is what a row reports."""

    question: tuple[int, ...]
    """Read then, at least one token."""

    targets: tuple[int, ...] = ()
    """The token to predict after each question token, IGNORED where nothing is asked; empty where nothing is scored."""

    new_tokens: int = 0
    """Longest answer to generate."""

    grades: Mapping[str, Sequence[float]] = field(default_factory=dict, hash=False)
    """What the context's tokens are worth, by what was judged (:mod:`namm.grades`); empty where nobody judged."""

    def __post_init__(self) -> None:
        if not self.context or not self.question:
            raise DataError(
                f"A prompt needs a context and a question of at least one token each, found {len(self.context)} and "
                f"{len(self.question)}; a prompt of two tokens is the shortest there is."
            )
        if self.targets and len(self.targets) != len(self.question):
            raise DataError(
                f"Targets must be one a question token, found {len(self.targets)} for {len(self.question)} tokens."
            )

    @property
    def tokens(self) -> int:
        """Length of context and question."""
        return len(self.context) + len(self.question)

    def aligned(self, multiple: int) -> Prompt:
        """The same with a context of a multiple of so many tokens; what is over goes before the question."""
        over = len(self.context) % multiple
        if not over or len(self.context) < multiple:
            return self
        context, rest = self.context[:-over], self.context[-over:]
        targets = (IGNORED,) * over + self.targets if self.targets else ()
        grades = {name: told[: len(context)] for name, told in self.grades.items()}
        return replace(self, context=context, question=rest + self.question, targets=targets, grades=grades)


@dataclass(frozen=True)
class Group:
    """Prompts that are read together up to `shared` tokens."""

    members: tuple[int, ...]
    """Places among the prompts, ascending."""

    shared: int
    """Tokens that are read once for all of them."""

    identity: int
    """Of their sequences in a memory: the place of the first, so that it depends on no batch and no division."""


def groups_of(prompts: Sequence[Prompt]) -> list[Group]:
    """Prompts by their common beginnings, longest first.

    Args:
        prompts: In the order of the data.
    """
    order = sorted(range(len(prompts)), key=lambda place: prompts[place].context)
    found: list[tuple[list[int], int]] = []
    for place in order:
        context = prompts[place].context
        if found:
            members, shared = found[-1]
            common = min(shared, common_prefix(prompts[members[0]].context, context))
            if common >= SHARED_PART * max(len(context), *(len(prompts[member].context) for member in members)):
                found[-1] = ([*members, place], common)
                continue
        found.append(([place], len(context)))
    groups = [Group(tuple(sorted(members)), shared, min(members)) for members, shared in found]
    return sorted(groups, key=lambda group: (-max(prompts[m].tokens for m in group.members), group.identity))


def batches_of(
    groups: Sequence[Group], prompts: Sequence[Prompt], rows: int, batch_tokens: int, share: bool = True
) -> list[list[Group]]:
    """Groups in batches, in their order; a group that fits no batch is divided, and each part reads the beginning.

    Args:
        groups: Of `groups_of`.
        prompts: What they are groups of.
        rows: Most prompts in a batch.
        batch_tokens: Most tokens in a batch, padding included; one prompt always fits.
        share: False makes a group of every prompt, with the identity of the group it came from.
    """
    batches: list[list[Group]] = []
    present = longest = 0
    for group in groups:
        size = max(prompts[member].tokens + prompts[member].new_tokens for member in group.members)
        most = max(1, min(rows, batch_tokens // size)) if share else 1
        for start in range(0, len(group.members), most):
            members = group.members[start : start + most]
            longest = max(longest, size)
            full = present + len(members) > rows or (present + len(members)) * longest > batch_tokens
            if not batches or full:
                batches.append([])
                present, longest = 0, size
            shared = group.shared if share else len(prompts[members[0]].context)
            batches[-1].append(Group(members, shared, group.identity))
            present += len(members)
    return batches


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
