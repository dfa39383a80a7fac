"""The ragged KV store of one layer: what is kept, packed per (sequence, KV head), and the tail of the interval.

How keys and values lie is the affair of one of two stores: without a gap, the tail beside them (:mod:`namm.packed`),
or, where asked for and worth it, short heads filled up to one rectangle with the tail (:mod:`namm.padded`). Which it is
is decided anew at every update. What a policy stores of a token, and its absolute position, are packed under either.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.buffers import write_rows
from namm.packed import PackedStore
from namm.padded import PaddedStore
from namm.stores import Part, Store, survivors_of

TAIL_BLOCK = 64
"""Smallest number of slots by which the tail grows."""


def spare(tokens: int) -> int:
    """Slots that a tail may have beyond the tokens of its longest sequence: a quarter more, or one block."""
    return max(tokens // 4, TAIL_BLOCK)


class LayerCache:
    """Keys, values, positions and per-token state of one layer.

    Attributes:
        store: Keys and values.
        positions: Absolute positions of kept tokens, sequence by sequence and head by head, oldest first.
        state: What the policy stores of them, in the same order.
        tail_lengths: ``[batch]`` tokens of the current interval, on the CPU.
        seen: ``[batch]`` tokens so far, on the CPU.
        aligned: Tokens of the current interval, where all sequences have equally many; else None.
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        head_dim: int,
        state_shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device,
        largest_tail: int | None,
        value_dim: int | None = None,
        may_pad: bool = False,
    ) -> None:
        """An empty store.

        Args:
            batch: Sequences.
            kv_heads: KV heads.
            head_dim: Width of a key.
            state_shapes: Per-token state of the policy.
            dtype: Of keys and values.
            device: Where everything lies.
            largest_tail: Tokens an interval can hold; None for a cache that never updates.
            value_dim: Width of a value; that of a key by default.
            may_pad: Short heads with small intervals may be held as a rectangle.
        """
        self.kv_heads, self.head_dim, self.largest_tail = kv_heads, head_dim, largest_tail
        self.value_dim = head_dim if value_dim is None else value_dim
        lengths = torch.zeros(batch, kv_heads, dtype=torch.long)
        self.store: Store = PackedStore.empty(lengths, head_dim, self.value_dim, dtype, device)
        # half the bytes of torch's own index type, and 2**31 tokens are more than any text has
        self.positions = torch.empty(0, dtype=torch.int32, device=device)
        self.state = {name: torch.empty(0, *shape, device=device) for name, shape in state_shapes.items()}
        # lengths stay on the CPU: they decide shapes, and asking a GPU for them would wait for all that it has to do
        self.tail_lengths = torch.zeros(batch, dtype=torch.long)
        self.seen = torch.zeros(batch, dtype=torch.long)
        self.aligned: int | None = 0
        # a rectangle pays where intervals are short: its tail keeps its room, and is copied at every update
        self.may_pad = may_pad and largest_tail is not None and largest_tail <= TAIL_BLOCK

    @property
    def lengths(self) -> Int[Tensor, "batch kv_heads"]:
        """Kept slots, on the CPU."""
        return self.store.lengths

    @property
    def keys(self) -> Tensor:
        """Kept keys, as the store holds them."""
        return self.store.keys

    @property
    def values(self) -> Tensor:
        """Kept values, as the store holds them."""
        return self.store.values

    @property
    def tail_keys(self) -> Float[Tensor, "batch kv_heads room head_dim"]:
        """Keys of the current interval."""
        return self.store.tail_keys

    @property
    def tail_values(self) -> Float[Tensor, "batch kv_heads room value_dim"]:
        """Values of the current interval."""
        return self.store.tail_values

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.keys.device

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.lengths.shape[0]

    def slots(self) -> Int[Tensor, "batch kv_heads"]:
        """Slots in use: kept and of the current interval."""
        return self.lengths + self.tail_lengths[:, None]

    def most_slots(self) -> int:
        """Slots in use of the head that has most."""
        # asked for at every call: where the tails agree no tensor need be made
        if self.aligned is None:
            return int(self.slots().max())
        return self.aligned + self.store.longest

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are allocated, spare tail slots and filling included."""
        return self.store.nbytes

    def state_bytes(self) -> int:
        """Bytes of positions and per-token state."""
        return self.positions.nbytes + self.store.mask_bytes + sum(t.nbytes for t in self.state.values())

    def append(
        self,
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens value_dim"],
        counts: Int[Tensor, " batch"] | None,
    ) -> None:
        """Adds new tokens to the tail.

        Args:
            key: New keys.
            value: New values.
            counts: How many of them, from the first, belong to each sequence; None if all do.
        """
        tokens = key.shape[2]
        longest = self.aligned if self.aligned is not None else int(self.tail_lengths.max())
        self._reserve(longest + tokens)
        write_rows(self.tail_keys, key, self.tail_lengths, counts, self.aligned)
        write_rows(self.tail_values, value, self.tail_lengths, counts, self.aligned)
        # new tensors, not in place: forks share the old ones, and callers hold them as the lengths before this call
        added = tokens if counts is None else counts
        self.tail_lengths = self.tail_lengths + added
        self.seen = self.seen + added
        if counts is None and self.aligned is not None:
            self.aligned += tokens
        else:
            self._align()

    def _align(self) -> None:
        # a batch without sequences agrees on nothing held
        same = self.tail_lengths.unique()
        self.aligned = int(same) if same.numel() == 1 else None if same.numel() else 0

    def _reserve(self, slots: int) -> None:
        """Makes room in the tail: a quarter more than there was, but never beyond what one interval can hold."""
        held = self.tail_keys.shape[2]
        if slots <= held:
            return
        # in proportion, so that a text given token by token is copied a bounded number of times in all
        room = max(slots, held + spare(held))
        if self.largest_tail is not None:
            room = max(slots, min(room, self.largest_tail))
        self.store.reserve(room)

    def offsets(self) -> Int[Tensor, "batch kv_heads"]:
        """Where each head's kept slots begin in the packed buffers."""
        ends = self.lengths.flatten().cumsum(0)
        return (ends - self.lengths.flatten()).view_as(self.lengths)

    def packed_index(self) -> tuple[Int[Tensor, "batch kv_heads slots"], Bool[Tensor, "batch kv_heads slots"]]:
        """Index into the packed buffers, padded at the OLD end, and which of its entries are real.

        Heads that keep fewer tokens are filled up before their oldest, so that the newest line up.
        """
        longest = int(self.lengths.max()) if self.lengths.numel() else 0
        missing = (longest - self.lengths).to(self.device)[..., None]
        slot = torch.arange(longest, device=self.device)
        index = self.offsets().to(self.device)[..., None] + (slot - missing).clamp_min(0)
        # unused entries must still point at something: at a head's first token, or of empty heads at any
        return index.clamp_max(max(0, self.positions.shape[0] - 1)), slot >= missing

    def kept(
        self,
        part: Part,
        index: Int[Tensor, "batch kv_heads slots"],
        span: slice = slice(None),
        rows: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, "rows kv_heads some width"]:
        """Keys or values of kept slots, padded at the old end.

        Args:
            part: Which of the two.
            index: From :meth:`packed_index`.
            span: Some of its slots.
            rows: Some of the sequences; None for all.
        """
        return self.store.kept(part, index, span, rows)

    def replace(
        self,
        index: Int[Tensor, "batch kv_heads slots"],
        survivors: Bool[Tensor, "batch kv_heads slots_and_interval"],
        positions: Int[Tensor, " survivors"],
        state: Mapping[str, Tensor],
        updated: Bool[Tensor, " batch"],
    ) -> None:
        """Makes the survivors of an update the new store and empties the tail of the updated sequences.

        The tail keeps its room: see :meth:`trim_tail`.

        Args:
            index: From :meth:`packed_index`.
            survivors: Which of those slots, and of the interval's behind them, stay.
            positions: Their absolute positions, head after head.
            state: Their state.
            updated: Sequences whose tail was judged.
        """
        lengths = survivors.sum(-1).cpu()
        kept, tail = self.store.places(index)
        source = survivors_of(kept, tail, survivors)
        # what is worth filling up changes with what the policy keeps, so neither form is for good
        if self.may_pad and PaddedStore.suits(lengths, tail.shape[2], self.head_dim):
            keys, values = self.store.rows("keys"), self.store.rows("values")
            self.store = PaddedStore.of(keys, values, lengths, source, tail)
        else:
            self.store = self.store.packed(source, lengths)
        self.positions = positions.to(torch.int32)
        # bound anew, never written to: a fork goes on with the old ones
        self.state = {name: state[name] for name in self.state}
        self.tail_lengths = torch.where(updated, 0, self.tail_lengths)
        self._align()

    def trim_tail(self) -> None:
        """Gives back the tail's room beyond what its longest sequence holds and its spare; all where none does."""
        longest = int(self.tail_lengths.max()) if self.batch else 0
        room = longest + spare(longest) if longest else 0
        self.store.trim(room)

    def fork(self) -> LayerCache:
        """The same, going its own way; kept tokens are shared, for only what new tokens are written to ever changes."""
        other = copy.copy(self)
        other.state = dict(self.state)
        other.store = self.store.fork()
        return other

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences, in this order; a row may appear more than once."""
        spans = torch.stack([self.lengths.sum(1).cumsum(0) - self.lengths.sum(1), self.lengths.sum(1)], dim=1)
        # kept tokens of a sequence, all heads, are one stretch of the packed order
        pieces = [torch.arange(int(start), int(start + count)) for start, count in spans[rows].tolist()]
        index = (torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long)).to(self.device)
        self.positions = self.positions[index]
        self.state = {name: tensor[index] for name, tensor in self.state.items()}
        self.store = self.store.select(rows, index)
        self.tail_lengths, self.seen = self.tail_lengths[rows], self.seen[rows]
        # the sequence with the longest tail may be gone
        self._align()
        self.trim_tail()
