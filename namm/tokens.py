"""Which token of the vocabulary stands at which position, for policies that judge by what a token is.

Ids are told from outside, as attention never shows them. They are known for every token that some layer holds; those of
tokens that all layers have forgotten are dropped from time to time, so that an endless stream needs bounded memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from namm.errors import AttachError

LEAST_DROPPED = 1024
"""Ids are dropped once twice as many are known as were left the last time, and so many more."""


@dataclass(frozen=True)
class KnownIds:
    """The ids of one sequence."""

    seen: int
    """Tokens told so far, dropped ones included."""
    positions: Int[Tensor, " known"]
    """Absolute positions, ascending."""
    ids: Int[Tensor, " known"]
    """What stands there."""

    def and_then(self, new: Int[Tensor, " tokens"]) -> KnownIds:
        """These, and the next tokens."""
        seen = self.seen + new.shape[0]
        positions = torch.cat([self.positions, torch.arange(self.seen, seen)])
        return KnownIds(seen, positions, torch.cat([self.ids, new]))

    def only(self, held: Int[Tensor, " held"]) -> KnownIds:
        """Those at some positions."""
        kept = torch.isin(self.positions, held)
        return KnownIds(self.seen, self.positions[kept], self.ids[kept])


class TokenRecord:
    """Token ids of a batch of sequences, by absolute position."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.rows: list[KnownIds] = []
        self._limit = LEAST_DROPPED

    def add(self, ids: Int[Tensor, "batch tokens"], padding: Bool[Tensor, "batch tokens"] | None) -> None:
        """Appends the ids of the tokens of the next call.

        Args:
            ids: Token ids, padding included.
            padding: True for real tokens.
        """
        ids = ids.cpu()
        new = list(ids) if padding is None else [row[real] for row, real in zip(ids, padding.cpu(), strict=True)]
        if not self.rows:
            nothing = torch.empty(0, dtype=torch.long)
            self.rows = [KnownIds(0, nothing, nothing)] * len(new)
        self.rows = [known.and_then(row) for known, row in zip(self.rows, new, strict=True)]

    @property
    def may_drop(self) -> bool:
        """Whether it is time to say what is still held."""
        return self._most() >= self._limit

    def drop_all_but(self, held: Sequence[Int[Tensor, " held"]]) -> None:
        """Forgets the ids of tokens that no layer holds.

        Args:
            held: Of each sequence, absolute positions that some layer holds, in any order and number.
        """
        self.rows = [known.only(mine.cpu()) for known, mine in zip(self.rows, held, strict=True)]
        self._limit = 2 * self._most() + LEAST_DROPPED

    def at(
        self, rows: Int[Tensor, " rows"], positions: Int[Tensor, "rows kv_heads slots"]
    ) -> Int[Tensor, "rows kv_heads slots"]:
        """Ids at some positions of some rows; -1 where the position is negative.

        Raises:
            AttachError: The ids were not told.
        """
        found = torch.full_like(positions, -1)
        for place, row in enumerate(rows.tolist()):
            told = self.rows[row].seen if row < len(self.rows) else 0
            if int(positions[place].max()) >= told:
                raise AttachError(
                    f"The policy reads token ids; expected those of {int(positions[place].max()) + 1} positions of row "
                    f"{row}, found {told}. attach() tells them where the model is called with input_ids; "
                    "else call memory.tell_tokens(ids) before each call of the model, or give the policy no ids."
                )
            if told:
                wanted = positions[place].cpu()
                index = torch.searchsorted(self.rows[row].positions, wanted.clamp_min(0).contiguous())
                ids = self.rows[row].ids[index.clamp_max(self.rows[row].ids.shape[0] - 1)]
                found[place] = torch.where(wanted >= 0, ids, -1).to(found)
        return found

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these rows, in this order."""
        if self.rows:
            self.rows = [self.rows[row] for row in rows.tolist()]

    def fork(self) -> TokenRecord:
        """A record that goes its own way; what is known so far is shared, for it never changes."""
        other = TokenRecord()
        other.rows, other._limit = list(self.rows), self._limit
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of ids and positions."""
        return sum(known.positions.nbytes + known.ids.nbytes for known in self.rows)

    def _most(self) -> int:
        return max((known.ids.shape[0] for known in self.rows), default=0)
