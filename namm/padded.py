"""Kept tokens and interval in one rectangle: the padded form of a layer's store.

A packed store holds no slot that is not in use, and pays for it at every call: uneven heads are gathered first, and
kept tokens and interval are attended apart. Where heads are short and intervals small, as under a batch of
environments, that costs more than the attention. Here every head's kept tokens end where its interval begins, those
that keep fewer are filled up before their oldest, and one kernel call sees both. The price is the filling.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.attention.parts import additive, attend_part
from namm.errors import UnknownNameError, did_you_mean

Store = Literal["packed", "padded"]
"""How kept tokens lie: without a gap, or short heads filled up to one rectangle."""

MOST_FILLING = 4 / 3
"""Slots of a padded store, at most, over those that a packed one would allocate."""
LONGEST_ROW = 1 << 14
"""Numbers in a head's kept keys, at most: longer heads are attended fast enough where they lie."""


def check_store(store: str) -> Store:
    """The store of that name.

    Raises:
        UnknownNameError: There is none.
    """
    for known in get_args(Store):
        if known == store:
            return known
    raise UnknownNameError(f"Unknown store {store!r}. {did_you_mean(store, get_args(Store))}")


class PaddedStore(NamedTuple):
    """Keys and values of one layer, kept tokens before those of the interval."""

    keys: Float[Tensor, "batch kv_heads slots head_dim"]
    values: Float[Tensor, "batch kv_heads slots value_dim"]
    ahead: int
    """Slots before the interval's first."""
    longest: int
    """Tokens of the head that keeps most."""
    hidden: Float[Tensor, "batch kv_heads 1 ahead"]
    """Added to the logits of kept slots: 0, or -inf where a head keeps fewer."""

    @staticmethod
    def suits(lengths: Int[Tensor, "batch kv_heads"], room: int, keys: Float[Tensor, "packed head_dim"]) -> bool:
        """Whether heads of these lengths, with so much room for the interval, are worth filling up."""
        if not lengths.numel():
            return False
        longest = int(lengths.max())
        packed = int(lengths.sum()) + lengths.numel() * room
        return longest * keys.shape[1] <= LONGEST_ROW and lengths.numel() * (longest + room) <= MOST_FILLING * packed

    @classmethod
    def of(
        cls,
        keys: Float[Tensor, "rows head_dim"],
        values: Float[Tensor, "rows value_dim"],
        lengths: Int[Tensor, "batch kv_heads"],
        kept: Int[Tensor, " packed"],
        tail: Int[Tensor, "batch kv_heads room"],
    ) -> PaddedStore:
        """The store that holds some rows of another.

        Args:
            keys: Rows to choose from.
            values: Likewise.
            lengths: Kept tokens of each head, on the CPU.
            kept: Their rows, head after head, oldest first.
            tail: The interval's rows, in use or not. Filling repeats a head's first: no other head's number, nor what
                memory happens to hold, comes near a head even where it is masked.
        """
        longest, room = int(lengths.max()), tail.shape[2]
        flat = lengths.flatten()
        # kept token i of head h, whose packed tokens end at e: ends where its interval begins
        shift = torch.arange(1, flat.numel() + 1) * longest - flat.cumsum(0)
        place = (torch.arange(kept.shape[0]) + shift.repeat_interleave(flat)).to(kept.device)
        source = tail[:, :, :1].expand(-1, -1, longest).reshape(-1).index_copy(0, place, kept)
        source = torch.cat([source.view(*lengths.shape, longest), tail], dim=2).flatten()
        wide_keys, wide_values = (
            rows.index_select(0, source).view(*lengths.shape, longest + room, -1) for rows in (keys, values)
        )
        held = torch.arange(-longest, 0) >= -lengths[..., None, None]
        return cls(wide_keys, wide_values, longest, longest, additive(held.to(keys.device), keys.dtype))

    def select(self, rows: Int[Tensor, " rows"], lengths: Int[Tensor, "rows kv_heads"]) -> PaddedStore:
        """These sequences, which keep so many tokens, in this order."""
        rows, longest = rows.to(self.keys.device), int(lengths.max()) if lengths.numel() else 0
        return PaddedStore(self.keys[rows], self.values[rows], self.ahead, longest, self.hidden[rows])

    def tails(self) -> tuple[Float[Tensor, "batch kv_heads room head_dim"], Float[Tensor, "batch kv_heads room value"]]:
        """Where keys and values of the interval are written."""
        return self.keys[:, :, self.ahead :], self.values[:, :, self.ahead :]

    def attend(
        self,
        query: Float[Tensor, "batch kv_heads queries head_dim"],
        scale: float,
        softcap: float | None = None,
    ) -> tuple[Float[Tensor, "batch kv_heads queries value_dim"], Float[Tensor, "batch kv_heads queries"]]:
        """Over kept tokens alone; the same as :meth:`namm.ragged.Layout.attend`."""
        held = (self.keys[:, :, : self.ahead], self.values[:, :, : self.ahead])
        return attend_part(query, *held, scale, self.hidden == 0, softcap=softcap)

    def attend_all(
        self,
        query: Float[Tensor, "batch kv_heads queries head_dim"],
        interval: Float[Tensor, "1 1 queries interval_slots"],
        scale: float,
        softcap: float | None = None,
    ) -> tuple[Float[Tensor, "batch kv_heads queries value_dim"], Float[Tensor, "batch kv_heads queries"]]:
        """Over kept tokens and the interval at once.

        Args:
            query: New queries, those of a group's heads behind each other.
            interval: Added to the logits of the interval's slots up to the newest: 0, or -inf where a query is older.
            scale: Factor on the logits.
            softcap: Bound of the logits.
        """
        queries = query.shape[2]
        shape = (*self.hidden.shape[:2], queries, -1)
        bias = torch.cat([self.hidden.expand(shape), interval.expand(shape)], dim=3)
        stop = bias.shape[3]
        return attend_part(query, self.keys[:, :, :stop], self.values[:, :, :stop], scale, bias, softcap=softcap)
