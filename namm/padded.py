"""Kept tokens and interval in one rectangle: the padded form of a layer's store.

A packed store holds no slot that is not in use, and pays for it at every call: uneven heads are gathered first, and
kept tokens and interval are attended apart. Where heads are short and intervals small, as under a batch of
environments, that costs more than the attention. Here every head's kept tokens end where its interval begins, those
that keep fewer are filled up before their oldest, and one kernel call sees both. The price is the filling.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.attention.parts import additive, attend_part
from namm.buffers import grow
from namm.packed import PackedStore
from namm.stores import Part, Store

MOST_FILLING = 4 / 3
"""Slots of a padded store, at most, over those that a packed one would allocate."""
LONGEST_ROW = 1 << 14
"""Numbers in a head's kept keys, at most: longer heads are attended fast enough where they lie."""


class PaddedStore(Store):
    """Keys and values of one layer, kept tokens before those of the interval."""

    def __init__(
        self,
        keys: Float[Tensor, "batch kv_heads slots head_dim"],
        values: Float[Tensor, "batch kv_heads slots value_dim"],
        ahead: int,
        hidden: Float[Tensor, "batch kv_heads 1 ahead"],
        lengths: Int[Tensor, "batch kv_heads"],
    ) -> None:
        """The store of these tensors, none of which is copied.

        Args:
            keys: Kept slots, then the interval's.
            values: Likewise.
            ahead: Slots before the interval's first.
            hidden: Added to the logits of kept slots: 0, or -inf where a head keeps fewer.
            lengths: Kept tokens of each head, on the CPU.
        """
        self.keys, self.values, self.lengths = keys, values, lengths
        self.ahead, self.hidden = ahead, hidden
        self._longest = int(lengths.max()) if lengths.numel() else 0

    @staticmethod
    def suits(lengths: Int[Tensor, "batch kv_heads"], room: int, head_dim: int) -> bool:
        """Whether heads of these lengths, with so much room for the interval, are worth filling up."""
        if not lengths.numel():
            return False
        longest = int(lengths.max())
        packed = int(lengths.sum()) + lengths.numel() * room
        return longest * head_dim <= LONGEST_ROW and lengths.numel() * (longest + room) <= MOST_FILLING * packed

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
        return cls(wide_keys, wide_values, longest, additive(held.to(keys.device), keys.dtype), lengths)

    @property
    def tail_keys(self) -> Float[Tensor, "batch kv_heads room head_dim"]:
        """See :class:`Store`; a view."""
        return self.keys[:, :, self.ahead :]

    @property
    def tail_values(self) -> Float[Tensor, "batch kv_heads room value_dim"]:
        """See :class:`Store`; a view."""
        return self.values[:, :, self.ahead :]

    @property
    def longest(self) -> int:
        """See :class:`Store`."""
        return self._longest

    @property
    def nbytes(self) -> int:
        """See :class:`Store`."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def mask_bytes(self) -> int:
        """See :class:`Store`."""
        return self.hidden.nbytes

    def reserve(self, room: int) -> None:
        """See :class:`Store`; a rectangle grows as a whole."""
        self.keys, self.values = grow(self.keys, self.ahead + room), grow(self.values, self.ahead + room)

    def trim(self, room: int) -> None:
        """Nothing: the room of short intervals is small, and to give it back would copy all that is kept."""

    def kept(
        self, part: Part, index: Int[Tensor, "batch kv_heads slots"], span: slice, rows: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows kv_heads some width"]:
        """See :class:`Store`; a view where all sequences are asked for."""
        held = self.keys if part == "keys" else self.values
        held = held[:, :, self.ahead - index.shape[2] : self.ahead][:, :, span]
        return held if rows is None else held[rows]

    def rows(self, part: Part) -> Float[Tensor, "rows width"]:
        """See :class:`Store`; a view."""
        return (self.keys if part == "keys" else self.values).flatten(0, 2)

    def places(
        self, index: Int[Tensor, "batch kv_heads slots"]
    ) -> tuple[Int[Tensor, "batch kv_heads slots"], Int[Tensor, "batch kv_heads room"]]:
        """See :class:`Store`."""
        slots, device = self.keys.shape[2], self.keys.device
        head = torch.arange(self.lengths.numel(), device=device).view(*self.lengths.shape, 1)
        tail = head * slots + self.ahead + torch.arange(slots - self.ahead, device=device)
        # a head's newest kept token lies just before its interval, however few it keeps
        return head * slots + self.ahead + torch.arange(-index.shape[2], 0, device=device), tail

    def writable_keys(
        self, batch: Int[Tensor, " tokens"], head: Int[Tensor, " tokens"], slot: Int[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, "rows head_dim"], Int[Tensor, " tokens"]]:
        """See :class:`Store`."""
        slots = self.keys.shape[2]
        row = (batch * self.keys.shape[1] + head) * slots + self.ahead - self.lengths[batch, head] + slot
        return self.keys.view(-1, self.keys.shape[3]), row.to(self.keys.device)

    def packed(self, source: Int[Tensor, " survivors"], lengths: Int[Tensor, "batch kv_heads"]) -> PackedStore:
        """See :class:`Store`; the tail is copied, for a view would hold all of the rectangle."""
        tails = (self.tail_keys.clone(), self.tail_values.clone())
        return PackedStore(self.rows("keys")[source], self.rows("values")[source], *tails, lengths)

    def fork(self) -> PaddedStore:
        """See :class:`Store`; all is copied, as the tail, which is written to, lies in the same tensors."""
        other = copy.copy(self)
        other.keys, other.values = self.keys.clone(), self.values.clone()
        return other

    def select(self, rows: Int[Tensor, " rows"], index: Int[Tensor, " packed"]) -> PaddedStore:
        """See :class:`Store`; the rectangle stays as wide as it was."""
        there = rows.to(self.keys.device)
        return PaddedStore(self.keys[there], self.values[there], self.ahead, self.hidden[there], self.lengths[rows])

    def attend(
        self, query: Float[Tensor, "batch kv_heads queries head_dim"], scale: float, softcap: float | None = None
    ) -> tuple[Float[Tensor, "batch kv_heads queries value_dim"], Float[Tensor, "batch kv_heads queries"]]:
        """See :class:`Store`."""
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
