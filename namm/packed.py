"""Kept tokens without a gap, and the interval beside them: the packed form of a layer's store.

Kept tokens lie in one flat buffer, sequence by sequence and head by head, oldest first, with no padding: forgetting
frees real bytes.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.buffers import grow, shrink
from namm.ragged import Layout
from namm.stores import Part, Store


class PackedStore(Store):
    """Keys and values of one layer, kept tokens in flat buffers and the interval's in dense ones."""

    def __init__(
        self,
        keys: Float[Tensor, "packed head_dim"],
        values: Float[Tensor, "packed value_dim"],
        tail_keys: Float[Tensor, "batch kv_heads room head_dim"],
        tail_values: Float[Tensor, "batch kv_heads room value_dim"],
        lengths: Int[Tensor, "batch kv_heads"],
    ) -> None:
        """The store of these tensors, none of which is copied."""
        self.keys, self.values, self.lengths = keys, values, lengths
        self._tail_keys, self._tail_values = tail_keys, tail_values
        self._layout: Layout | None = None

    @classmethod
    def empty(
        cls,
        lengths: Int[Tensor, "batch kv_heads"],
        head_dim: int,
        value_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> PackedStore:
        """Nothing kept yet of any head, and a tail without room."""
        batch, kv_heads = lengths.shape

        def nothing(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return cls(
            nothing(0, head_dim),
            nothing(0, value_dim),
            nothing(batch, kv_heads, 0, head_dim),
            nothing(batch, kv_heads, 0, value_dim),
            lengths,
        )

    @property
    def tail_keys(self) -> Float[Tensor, "batch kv_heads room head_dim"]:
        """See :class:`Store`."""
        return self._tail_keys

    @property
    def tail_values(self) -> Float[Tensor, "batch kv_heads room value_dim"]:
        """See :class:`Store`."""
        return self._tail_values

    @property
    def layout(self) -> Layout:
        """Where each head's kept tokens lie; worked out once, as a store's kept tokens never change."""
        if self._layout is None:
            self._layout = Layout(self.lengths, self.keys)
        return self._layout

    @property
    def longest(self) -> int:
        """See :class:`Store`."""
        return self.layout.longest

    @property
    def nbytes(self) -> int:
        """See :class:`Store`."""
        return sum(tensor.nbytes for tensor in (self.keys, self.values, self._tail_keys, self._tail_values))

    @property
    def mask_bytes(self) -> int:
        """Nothing is filled up."""
        return 0

    def reserve(self, room: int) -> None:
        """See :class:`Store`."""
        self._tail_keys, self._tail_values = grow(self._tail_keys, room), grow(self._tail_values, room)

    def trim(self, room: int) -> None:
        """See :class:`Store`."""
        self._tail_keys, self._tail_values = shrink(self._tail_keys, room), shrink(self._tail_values, room)

    def kept(
        self, part: Part, index: Int[Tensor, "batch kv_heads slots"], span: slice, rows: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows kv_heads some width"]:
        """See :class:`Store`; a copy."""
        wanted = index[:, :, span]
        return self._part(part)[wanted if rows is None else wanted[rows]]

    def attend(
        self, query: Float[Tensor, "batch kv_heads queries head_dim"], scale: float, softcap: float | None = None
    ) -> tuple[Float[Tensor, "batch kv_heads queries value_dim"], Float[Tensor, "batch kv_heads queries"]] | None:
        """See :class:`Store`."""
        if not self.layout.longest:
            return None
        return self.layout.attend(query, self.keys, self.values, scale, softcap)

    def rows(self, part: Part) -> Float[Tensor, "rows width"]:
        """See :class:`Store`; a copy, the tail behind all kept tokens."""
        tail = self._tail_keys if part == "keys" else self._tail_values
        return torch.cat([self._part(part), tail.flatten(0, 2)])

    def places(
        self, index: Int[Tensor, "batch kv_heads slots"]
    ) -> tuple[Int[Tensor, "batch kv_heads slots"], Int[Tensor, "batch kv_heads room"]]:
        """See :class:`Store`."""
        slot = torch.arange(self._tail_keys.shape[2], device=self.keys.device)
        head = torch.arange(self.lengths.numel(), device=self.keys.device).view(*self.lengths.shape, 1)
        return index, self.keys.shape[0] + head * slot.shape[0] + slot

    def writable_keys(
        self, batch: Int[Tensor, " tokens"], head: Int[Tensor, " tokens"], slot: Int[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, "rows head_dim"], Int[Tensor, " tokens"]]:
        """See :class:`Store`."""
        starts = (self.lengths.flatten().cumsum(0) - self.lengths.flatten()).view_as(self.lengths)
        return self.keys, (starts[batch, head] + slot).to(self.keys.device)

    def packed(self, source: Int[Tensor, " survivors"], lengths: Int[Tensor, "batch kv_heads"]) -> PackedStore:
        """See :class:`Store`."""
        # both asked for once: a GPU is waited for each time
        from_tail = source >= self.keys.shape[0]
        old, new = (~from_tail).nonzero().squeeze(1), from_tail.nonzero().squeeze(1)
        keys = _taken(self.keys, self._tail_keys, source, old, new)
        values = _taken(self.values, self._tail_values, source, old, new)
        return PackedStore(keys, values, self._tail_keys, self._tail_values, lengths)

    def fork(self) -> PackedStore:
        """See :class:`Store`; kept tokens are shared, for they never change."""
        other = copy.copy(self)
        other._tail_keys, other._tail_values = self._tail_keys.clone(), self._tail_values.clone()
        return other

    def select(self, rows: Int[Tensor, " rows"], index: Int[Tensor, " packed"]) -> PackedStore:
        """See :class:`Store`."""
        there = rows.to(self.keys.device)
        tails = (self._tail_keys[there], self._tail_values[there])
        return PackedStore(self.keys[index], self.values[index], *tails, self.lengths[rows])

    def _part(self, part: Part) -> Float[Tensor, "packed width"]:
        return self.keys if part == "keys" else self.values


def _taken(
    packed: Float[Tensor, "packed width"],
    tail: Float[Tensor, "batch kv_heads room width"],
    source: Int[Tensor, " survivors"],
    old: Int[Tensor, " of_packed"],
    new: Int[Tensor, " of_tail"],
) -> Float[Tensor, "survivors width"]:
    """Some rows of both, those of the tail counted on behind the packed; none is copied but these.

    Joining the two first would hold the whole store twice, just when it is largest.

    Args:
        packed: Kept keys or values.
        tail: The interval's.
        source: Which rows, in order.
        old: Places in ``source`` of rows of ``packed``.
        new: Places of rows of ``tail``.
    """
    fresh = packed.new_empty(source.shape[0], packed.shape[1])
    fresh[old] = packed[source[old]]
    fresh[new] = tail.flatten(0, 2)[source[new] - packed.shape[0]]
    return fresh
