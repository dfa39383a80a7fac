"""The ragged KV store of one layer: what is kept, packed per (sequence, KV head), and the tail of the interval.

Kept tokens lie in one flat buffer, sequence by sequence and head by head, oldest first, with no padding: forgetting
frees real bytes. Tokens of the current interval, which no policy has judged yet, lie in a small dense tail. What a
policy stores of a token (and its absolute position) is packed beside its key and moves with it. Where asked for, short
heads are filled up to one rectangle with the tail instead (:mod:`namm.padded`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.buffers import grow, shrink, write_rows
from namm.padded import PaddedStore
from namm.ragged import Layout

TAIL_BLOCK = 64
"""Smallest number of slots by which the tail grows."""


def spare(tokens: int) -> int:
    """Slots that a tail may have beyond the tokens of its longest sequence: a quarter more, or one block."""
    return max(tokens // 4, TAIL_BLOCK)


class LayerCache:
    """Keys, values, positions and per-token state of one layer.

    Attributes:
        lengths: ``[batch, kv_heads]`` kept slots, on the CPU.
        tail_lengths: ``[batch]`` tokens of the current interval, on the CPU.
        seen: ``[batch]`` tokens so far, on the CPU.
        aligned: Tokens of the current interval, where all sequences have equally many; else None.
        padded: Kept tokens and tail in one rectangle; None while kept tokens are packed in ``keys`` and ``values``.
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
        self.keys = torch.empty(0, head_dim, dtype=dtype, device=device)
        self.value_dim = head_dim if value_dim is None else value_dim
        self.values = torch.empty(0, self.value_dim, dtype=dtype, device=device)
        self.positions = torch.empty(0, dtype=torch.int32, device=device)
        self.state = {name: torch.empty(0, *shape, device=device) for name, shape in state_shapes.items()}
        self.lengths = torch.zeros(batch, kv_heads, dtype=torch.long)
        self.tail_keys = torch.empty(batch, kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.tail_values = torch.empty(batch, kv_heads, 0, self.value_dim, dtype=dtype, device=device)
        self.tail_lengths = torch.zeros(batch, dtype=torch.long)
        self.seen = torch.zeros(batch, dtype=torch.long)
        self.aligned: int | None = 0
        self.may_pad = may_pad and largest_tail is not None and largest_tail <= TAIL_BLOCK
        self.padded: PaddedStore | None = None
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Where each head's kept tokens lie; until the next update or departure always the same."""
        if self._layout is None:
            self._layout = Layout(self.lengths, self.keys)
        return self._layout

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
        if self.aligned is None:
            return int(self.slots().max())
        return self.aligned + (self.layout.longest if self.padded is None else self.padded.longest)

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are allocated, spare tail slots and filling included."""
        tensors = (self.tail_keys, self.tail_values) if self.padded is None else (self.padded.keys, self.padded.values)
        return sum(tensor.nbytes for tensor in (self.keys, self.values, *tensors))

    def state_bytes(self) -> int:
        """Bytes of positions and per-token state."""
        filling = 0 if self.padded is None else self.padded.hidden.nbytes
        return self.positions.nbytes + filling + sum(t.nbytes for t in self.state.values())

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
        added = tokens if counts is None else counts
        self.tail_lengths = self.tail_lengths + added
        self.seen = self.seen + added
        if counts is None and self.aligned is not None:
            self.aligned += tokens
        else:
            self._align()

    def _align(self) -> None:
        same = self.tail_lengths.unique()
        self.aligned = int(same) if same.numel() == 1 else None if same.numel() else 0

    def _reserve(self, slots: int) -> None:
        """Makes room in the tail: a quarter more than there was, but never beyond what one interval can hold."""
        held = self.tail_keys.shape[2]
        if slots <= held:
            return
        room = max(slots, held + spare(held))
        if self.largest_tail is not None:
            room = max(slots, min(room, self.largest_tail))
        if self.padded is None:
            self.tail_keys, self.tail_values = (grow(t, room) for t in (self.tail_keys, self.tail_values))
            return
        keys, values = (grow(t, self.padded.ahead + room) for t in (self.padded.keys, self.padded.values))
        self.padded = self.padded._replace(keys=keys, values=values)
        self.tail_keys, self.tail_values = self.padded.tails()

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
        return index.clamp_max(max(0, self.positions.shape[0] - 1)), slot >= missing

    def kept(
        self,
        name: Literal["keys", "values"],
        index: Int[Tensor, "batch kv_heads slots"],
        span: slice = slice(None),
        rows: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, "rows kv_heads some width"]:
        """Keys or values of kept slots, padded at the old end.

        Args:
            name: Which of the two.
            index: From :meth:`packed_index`.
            span: Some of its slots.
            rows: Some of the sequences; None for all.
        """
        if self.padded is None:
            wanted = index[:, :, span]
            return getattr(self, name)[wanted if rows is None else wanted[rows]]
        ahead = self.padded.ahead
        held = getattr(self.padded, name)[:, :, ahead - index.shape[2] : ahead][:, :, span]
        return held if rows is None else held[rows]

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
        source, tail_source = self._sources(index, survivors)
        if self.may_pad and PaddedStore.suits(lengths, tail_source.shape[2], self.keys):
            keys, values = self._rows("keys"), self._rows("values")
            self.padded = PaddedStore.of(keys, values, lengths, source, tail_source)
            self.tail_keys, self.tail_values = self.padded.tails()
            self.keys, self.values = self.keys[:0].clone(), self.values[:0].clone()
        else:
            self.keys, self.values = self._taken("keys", source), self._taken("values", source)
            if self.padded is not None:
                self.padded = None
                self.tail_keys, self.tail_values = self.tail_keys.clone(), self.tail_values.clone()
        self.positions = positions.to(torch.int32)
        self.state = {name: state[name] for name in self.state}
        self.lengths = lengths
        self._layout = None
        self.tail_lengths = torch.where(updated, 0, self.tail_lengths)
        self._align()

    def _sources(
        self,
        index: Int[Tensor, "batch kv_heads slots"],
        survivors: Bool[Tensor, "batch kv_heads slots_and_interval"],
    ) -> tuple[Int[Tensor, " survivors"], Int[Tensor, "batch kv_heads room"]]:
        """Where survivors, head after head, and all slots of the tail lie: see :meth:`_rows`."""
        room = torch.arange(self.tail_keys.shape[2], device=self.device)
        head = torch.arange(self.batch * self.kv_heads, device=self.device).view(self.batch, self.kv_heads, 1)
        if self.padded is not None:
            tail = head * self.padded.keys.shape[2] + self.padded.ahead + room
            kept = tail[:, :, :1] + torch.arange(-index.shape[2], 0, device=self.device)
        else:
            tail = self.keys.shape[0] + head * room.shape[0] + room
            kept = index
        every = torch.cat([kept, tail[:, :, : survivors.shape[2] - index.shape[2]]], dim=2)
        return every[survivors], tail

    def _rows(self, name: Literal["keys", "values"]) -> Float[Tensor, "rows width"]:
        """The rectangle, or the packed buffer with the tail behind it, row by row."""
        if self.padded is not None:
            return getattr(self.padded, name).flatten(0, 2)
        return torch.cat([getattr(self, name), getattr(self, f"tail_{name}").flatten(0, 2)])

    def _taken(
        self, name: Literal["keys", "values"], source: Int[Tensor, " survivors"]
    ) -> Float[Tensor, "survivors width"]:
        """Some of these rows; none is copied but these."""
        if self.padded is not None:
            return self._rows(name)[source]
        packed, tail = getattr(self, name), getattr(self, f"tail_{name}")
        from_tail = source >= packed.shape[0]
        fresh = packed.new_empty(source.shape[0], packed.shape[1])
        fresh[~from_tail] = packed[source[~from_tail]]
        fresh[from_tail] = tail.flatten(0, 2)[source[from_tail] - packed.shape[0]]
        return fresh

    def trim_tail(self) -> None:
        """Gives back the tail's room beyond what its longest sequence holds and its spare; all of it where none does.

        The room of a rectangle, which is small, stays.
        """
        if self.padded is not None:
            return
        longest = int(self.tail_lengths.max()) if self.batch else 0
        room = longest + spare(longest) if longest else 0
        self.tail_keys, self.tail_values = shrink(self.tail_keys, room), shrink(self.tail_values, room)

    def fork(self) -> LayerCache:
        """The same, going its own way; kept tokens are shared, for only what new tokens are written to ever changes."""
        other = copy.copy(self)
        other.state = dict(self.state)
        if self.padded is not None:
            other.padded = self.padded._replace(keys=self.padded.keys.clone(), values=self.padded.values.clone())
            other.tail_keys, other.tail_values = other.padded.tails()
        else:
            other.tail_keys, other.tail_values = self.tail_keys.clone(), self.tail_values.clone()
        return other

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences, in this order; a row may appear more than once."""
        spans = torch.stack([self.lengths.sum(1).cumsum(0) - self.lengths.sum(1), self.lengths.sum(1)], dim=1)
        pieces = [torch.arange(int(start), int(start + count)) for start, count in spans[rows].tolist()]
        index = (torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long)).to(self.device)
        self.positions = self.positions[index]
        self.state = {name: tensor[index] for name, tensor in self.state.items()}
        if self.padded is not None:
            self.padded = self.padded.select(rows, self.lengths[rows])
            self.tail_keys, self.tail_values = self.padded.tails()
        else:
            self.keys, self.values = self.keys[index], self.values[index]
            self.tail_keys, self.tail_values = (t[rows.to(t.device)] for t in (self.tail_keys, self.tail_values))
        self.lengths, self.tail_lengths, self.seen = self.lengths[rows], self.tail_lengths[rows], self.seen[rows]
        self._layout = None
        self._align()
        self.trim_tail()
