"""The ragged KV store of one layer: what is kept, packed per (sequence, KV head), and the tail of the interval.

Kept tokens lie in one flat buffer, sequence by sequence and head by head, oldest first, with no padding: forgetting
frees real bytes. Tokens of the current interval, which no policy has judged yet, lie in a small dense tail. What a
policy stores of a token (and its absolute position) is packed beside its key and moves with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.ragged import Layout

TAIL_BLOCK = 64
"""Smallest number of slots by which the tail grows."""


class LayerCache:
    """Keys, values, positions and per-token state of one layer.

    Attributes:
        lengths: ``[batch, kv_heads]`` kept slots, on the CPU.
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
        if self.aligned is not None:
            return self.layout.longest + self.aligned
        return int(self.slots().max())

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are allocated, spare tail slots included."""
        return sum(t.nbytes for t in (self.keys, self.values, self.tail_keys, self.tail_values))

    def state_bytes(self) -> int:
        """Bytes of positions and per-token state."""
        return self.positions.nbytes + sum(t.nbytes for t in self.state.values())

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
        room = max(slots, held + max(held // 4, TAIL_BLOCK))
        if self.largest_tail is not None:
            room = max(slots, min(room, self.largest_tail))
        self.tail_keys, self.tail_values = (grow(t, room) for t in (self.tail_keys, self.tail_values))

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
        return index.clamp_max(max(0, self.keys.shape[0] - 1)), slot >= missing

    def replace(
        self,
        source: Int[Tensor, " survivors"],
        lengths: Int[Tensor, "batch kv_heads"],
        positions: Int[Tensor, " survivors"],
        state: Mapping[str, Tensor],
        updated: Bool[Tensor, " batch"],
    ) -> None:
        """Makes the survivors of an update the new packed store and empties the tail of the updated sequences.

        The tail keeps its room: see :meth:`free_tail`.

        Args:
            source: Where each survivor's key lies now: in the packed buffer, or, counted from its end, in the tail.
            lengths: Survivors of each head.
            positions: Their absolute positions.
            state: Their state.
            updated: Sequences whose tail was judged.
        """
        kept = self.keys.shape[0]
        from_tail = source >= kept
        old, new = source[~from_tail], source[from_tail] - kept
        for name in ("keys", "values"):
            packed, tail = getattr(self, name), getattr(self, f"tail_{name}")
            fresh = packed.new_empty(source.shape[0], packed.shape[1])
            fresh[~from_tail] = packed[old]
            fresh[from_tail] = tail.reshape(-1, packed.shape[1])[new]
            setattr(self, name, fresh)
        self.positions = positions.to(torch.int32)
        self.state = {name: state[name] for name in self.state}
        self.lengths = lengths
        self._layout = None
        self.tail_lengths = torch.where(updated, 0, self.tail_lengths)
        self._align()

    def free_tail(self) -> None:
        """Gives the tail's room back; it is empty."""
        self.tail_keys, self.tail_values = (t[:, :, :0].clone() for t in (self.tail_keys, self.tail_values))

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences, in this order; a row may appear more than once."""
        spans = torch.stack([self.lengths.sum(1).cumsum(0) - self.lengths.sum(1), self.lengths.sum(1)], dim=1)
        pieces = [torch.arange(int(start), int(start + count)) for start, count in spans[rows].tolist()]
        index = (torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long)).to(self.device)
        self.keys, self.values, self.positions = self.keys[index], self.values[index], self.positions[index]
        self.state = {name: tensor[index] for name, tensor in self.state.items()}
        self.tail_keys, self.tail_values = (t[rows.to(t.device)] for t in (self.tail_keys, self.tail_values))
        self.lengths, self.tail_lengths, self.seen = self.lengths[rows], self.tail_lengths[rows], self.seen[rows]
        self._layout = None
        self._align()


def grow(buffer: Float[Tensor, "batch heads slots *rest"], slots: int) -> Float[Tensor, "batch heads more *rest"]:
    """The buffer with room for ``slots``, what it held at the front; zeros behind, for a masked NaN is still NaN."""
    bigger = buffer.new_zeros(*buffer.shape[:2], slots, *buffer.shape[3:])
    bigger[:, :, : buffer.shape[2]] = buffer
    return bigger


def write_rows(
    buffer: Float[Tensor, "batch heads slots *rest"],
    new: Float[Tensor, "batch heads tokens *rest"],
    starts: Int[Tensor, " batch"],
    counts: Int[Tensor, " batch"] | None,
    first: int | None,
) -> None:
    """Writes each row's first ``counts`` new tokens at its own start; ``first`` is that of all, where they agree."""
    tokens = new.shape[2]
    if counts is None and first is not None:
        buffer[:, :, first : first + tokens] = new
        return
    token = torch.arange(tokens)
    real = token < (torch.full_like(starts, tokens) if counts is None else counts)[:, None]
    row, token = real.nonzero(as_tuple=True)
    slot = (starts[row] + token).to(buffer.device)
    row, token = row.to(buffer.device), token.to(buffer.device)
    buffer.transpose(1, 2)[row, slot] = new.transpose(1, 2)[row, token]
