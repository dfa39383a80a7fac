"""Memory: the one object that stands between a model's attention layers and an eviction policy.

``attend`` takes the place of ``scaled_dot_product_attention``: it stores the new tokens, attends over all that is
kept, and, whenever a sequence has seen a multiple of the policy's interval, lets the policy judge its tokens and
frees the rest. A call that crosses such a multiple is cut there. Because causal layers only look back, cutting layer
by layer gives what feeding the whole model in chunks would give.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from namm.attention import attend_part, join_parts
from namm.cache import LayerCache, grow, write_rows
from namm.errors import AttachError
from namm.policies.base import Policy
from namm.report import MemoryReport, Peaks
from namm.update import update_layer

PADDED_ELEMENTS = 1 << 14
"""Heads whose kept keys hold more numbers than this are attended one by one, smaller ones as a padded batch."""


class Memory:
    """KV memory of one model for a batch of sequences, under one policy.

    Attributes:
        policy: Decides what is kept.
        layers: What each layer holds.
        parts: Memories that the batch was split into; empty for a batch that was not.
    """

    def __init__(self, policy: Policy) -> None:
        """An empty memory.

        Args:
            policy: Decides what is kept. One policy object may serve several memories; it holds no token state.
        """
        self.policy = policy
        self.layers: dict[int, LayerMemory] = {}
        self.parts: list[Memory] = []
        self.peaks = Peaks()
        self.first_sequence = 0
        self._is_part = False

    def reset(self) -> None:
        """Forgets everything; the next call starts new sequences."""
        self.layers.clear()
        self.parts = []
        if self._is_part:
            self.peaks.leave(self.first_sequence)
        else:
            self.peaks = Peaks()

    def split(self, sizes: Sequence[int]) -> list[Memory]:
        """Forgets everything; memories for consecutive parts of a new batch, each called for its rows alone.

        What this memory reports is then about all parts, rows in order. Sequences have the identities that they would
        have in one batch.
        """
        self.reset()
        for first in (sum(sizes[:index]) for index in range(len(sizes))):
            part = Memory(self.policy)
            part.first_sequence, part.peaks, part._is_part = first, self.peaks, True
            self.parts.append(part)
        return list(self.parts)

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens head_dim"],
        padding: Bool[Tensor, "batch tokens"] | None = None,
        scale: float | None = None,
    ) -> Float[Tensor, "batch query_heads tokens head_dim"]:
        """Stores the new tokens and attends causally over all that is kept, these included.

        Args:
            layer: Index of the calling layer.
            query: New queries, positions already encoded; query heads of one KV head lie together.
            key: New keys, positions already encoded.
            value: New values, as wide as the keys.
            padding: True for real tokens. Others are never stored, and their output is zero.
            scale: Factor on the logits; ``head_dim ** -0.5`` by default.

        Raises:
            AttachError: Shapes that do not fit each other or the sequences held.
        """
        _check_shapes(layer, query, key, value)
        self._check_whole()
        if layer not in self.layers:
            self.layers[layer] = LayerMemory(layer, self.policy, query, key, self.first_sequence)
        held = self.layers[layer]
        if held.cache.batch != query.shape[0]:
            raise AttachError(
                f"Layer {layer} holds {held.cache.batch} sequences and was called with {query.shape[0]}; "
                "call memory.reset() before a new batch, or memory.select_sequences() when rows leave."
            )
        out = held.attend(query, key, value, padding, query.shape[-1] ** -0.5 if scale is None else scale)
        self.peaks.note(self.first_sequence, layer, held)
        return out

    @property
    def seen(self) -> Int[Tensor, " batch"]:
        """Tokens seen by each sequence (empty before the first call)."""
        held = [layers[min(layers)].cache.seen for layers in self._held()]
        return torch.cat(held) if held else torch.zeros(0, dtype=torch.long)

    def slots(self) -> Int[Tensor, "batch layers kv_heads"]:
        """Slots held now."""
        held = [torch.stack([layers[i].cache.slots() for i in sorted(layers)], dim=1) for layers in self._held()]
        return torch.cat(held) if held else torch.zeros(0, 0, 0, dtype=torch.long)

    def kept_positions(self, layer: int) -> Int[Tensor, "batch kv_heads slots"]:
        """Absolute positions of the tokens a layer holds, ascending, padded with -1 at the end."""
        held = [layers[layer].kept_positions() for layers in self._held()]
        longest = max(part.shape[2] for part in held)
        return torch.cat([pad(part, (0, longest - part.shape[2]), value=-1) for part in held])

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are allocated now."""
        return sum(layer.cache.cache_bytes() for layers in self._held() for layer in layers.values())

    def state_bytes(self) -> int:
        """Bytes that the policy costs beside them: positions, per-token state, buffered queries."""
        return sum(layer.state_bytes() for layers in self._held() for layer in layers.values())

    def select_sequences(self, rows: Int[Tensor, " rows"], identities: Int[Tensor, " rows"] | None = None) -> None:
        """Keeps these rows of the batch, in this order; the others' memory is freed.

        Args:
            rows: Present rows; one may appear more than once.
            identities: New identity of each, by which a population's candidate and the random policy's draws are
                looked up. By default rows keep theirs, which are 0, 1, 2, ... at first.

        Raises:
            AttachError: The batch is split: rows leave the part that holds them.
        """
        self._check_whole()
        for layer in self.layers.values():
            layer.select(rows.cpu())
            if identities is not None:
                layer.sequences = identities.cpu()

    def report(self) -> MemoryReport:
        """What was held, at the peak and now, and what was evicted."""
        return MemoryReport.of(self.policy.name, self._held(), self.peaks)

    def _held(self) -> list[dict[int, LayerMemory]]:
        """The layers of every part that has been called."""
        return [part.layers for part in self.parts or [self] if part.layers]

    def _check_whole(self) -> None:
        if self.parts:
            raise AttachError(f"The batch is split into {len(self.parts)} memories; call these, or reset() this one.")


class LayerMemory:
    """One layer's cache, the queries of its current interval, and the forward pass over both."""

    def __init__(
        self,
        index: int,
        policy: Policy,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        first_sequence: int,
    ) -> None:
        """An empty memory of the shape of these tensors, its sequences numbered from the first."""
        batch, kv_heads, _, head_dim = key.shape
        self.index, self.policy = index, policy
        self.sequences = torch.arange(first_sequence, first_sequence + batch)
        self.interval = policy.selection.interval
        self.group = query.shape[1] // kv_heads
        self.scale = 1.0
        self.updates = 0
        self.evicted = 0
        self.most_slots = 0
        self.call_peak = (0, 0)
        self.cache = LayerCache(batch, kv_heads, head_dim, policy.state_shapes(), key.dtype, key.device, self.interval)
        # queries and their log-sum-exp, heads of a group beside each other: [batch, query_heads, tokens(, head_dim)]
        self.queries = query.new_empty(batch, query.shape[1], 0, head_dim)
        self.log_sums = torch.empty(batch, query.shape[1], 0, device=key.device)

    def attend(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens head_dim"],
        padding: Bool[Tensor, "batch tokens"] | None,
        scale: float,
    ) -> Float[Tensor, "batch query_heads tokens head_dim"]:
        """See :meth:`Memory.attend`."""
        self.scale = scale
        self.call_peak = (0, 0)
        if padding is None or bool(padding.all()):
            return self._attend_aligned(query, key, value, None)
        # real tokens first: then all sequences begin in the same column and share the cuts
        order = (~padding).to(torch.int8).argsort(dim=1, stable=True)
        columns = order[:, None, :, None]
        aligned = [t.gather(2, columns.expand(-1, t.shape[1], -1, t.shape[3])) for t in (query, key, value)]
        out = self._attend_aligned(*aligned, padding.sum(1).cpu())
        real = padding.gather(1, order)[:, None, :, None]
        return torch.zeros_like(out).scatter_(2, columns.expand_as(out), out.masked_fill(~real, 0.0))

    def _attend_aligned(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens head_dim"],
        counts: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch query_heads tokens head_dim"]:
        """Cuts the call wherever a sequence completes an interval; row b holds ``counts[b]`` tokens, then nothing."""
        pieces = []
        start, tokens = 0, query.shape[2]
        while start < tokens:
            left = None if counts is None else (counts - start).clamp_min(0)
            step = tokens - start
            if self.interval is not None:
                active = self.cache.tail_lengths if left is None else self.cache.tail_lengths[left > 0]
                # after the last real token of every row only padding is left, and nothing can complete an interval
                fullest = int(active.max()) if active.numel() else 0
                step = min(step, self.interval - fullest)
            piece = slice(start, start + step)
            now = None if left is None else left.clamp_max(step)
            pieces.append(self._attend_piece(query[:, :, piece], key[:, :, piece], value[:, :, piece], now))
            self._note_peaks()
            if self.interval is not None:
                complete = self.cache.tail_lengths == self.interval
                if bool(complete.any()):
                    update_layer(self, complete)
                    self._drop_judged_queries()
            start += step
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def _attend_piece(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens head_dim"],
        counts: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch query_heads tokens head_dim"]:
        """Tokens that stay within the interval: stored, then attended with the kept part and the tail."""
        cache = self.cache
        starts = cache.tail_lengths
        cache.append(key, value, counts)
        tokens = query.shape[2]
        folded = query.reshape(cache.batch, cache.kv_heads, self.group * tokens, cache.head_dim)
        out, log_sum = self._attend_tail(query, folded, starts)
        kept_out, kept_sum = self._attend_kept(folded)
        if kept_out is not None and kept_sum is not None:
            out, log_sum = join_parts(out, log_sum, kept_out, kept_sum)
        out = out.reshape(query.shape)
        if self.policy.observes_attention:
            self._buffer(query, log_sum.reshape(query.shape[:3]), starts, counts)
        return out

    def _attend_tail(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        folded: Float[Tensor, "batch kv_heads group_tokens head_dim"],
        starts: Int[Tensor, " batch"],
    ) -> tuple[Tensor, Tensor]:
        """Causal attention over the current interval; groups folded into the query axis, as is the output."""
        cache, tokens = self.cache, query.shape[2]
        first = int(starts[0])
        if not bool((starts == first).all()):
            slot = torch.arange(int(starts.max()) + tokens)
            asker = starts[:, None] + torch.arange(tokens)
            mask = (slot[None, None] <= asker[:, :, None])[:, None].repeat(1, 1, self.group, 1).to(cache.device)
            stop = slot.shape[0]
            return attend_part(folded, cache.tail_keys[:, :, :stop], cache.tail_values[:, :, :stop], self.scale, mask)
        before = (cache.tail_keys[:, :, :first], cache.tail_values[:, :, :first])
        fresh = (cache.tail_keys[:, :, first : first + tokens], cache.tail_values[:, :, first : first + tokens])
        if tokens == 1:
            stop = first + 1
            return attend_part(folded, cache.tail_keys[:, :, :stop], cache.tail_values[:, :, :stop], self.scale)
        key, value = (t.repeat_interleave(self.group, dim=1) if self.group > 1 else t for t in fresh)
        out, log_sum = attend_part(query, key, value, self.scale, causal=True)
        out, log_sum = out.reshape(folded.shape), log_sum.reshape(folded.shape[:3])
        if first == 0:
            return out, log_sum
        return join_parts(out, log_sum, *attend_part(folded, *before, self.scale))

    def _attend_kept(
        self, folded: Float[Tensor, "batch kv_heads group_tokens head_dim"]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Attention over the packed tokens, which every query may see."""
        cache = self.cache
        longest = int(cache.lengths.max())
        if longest == 0:
            return None, None
        if bool((cache.lengths == longest).all()):
            shape = (cache.batch, cache.kv_heads, longest, cache.head_dim)
            return attend_part(folded, cache.keys.view(shape), cache.values.view(shape), self.scale)
        if longest * cache.head_dim <= PADDED_ELEMENTS:
            index, valid = cache.packed_index()
            return attend_part(folded, cache.keys[index], cache.values[index], self.scale, valid.unsqueeze(2))
        rows = folded.flatten(0, 1)[:, None, None]  # [batch * kv_heads, 1, 1, queries, head_dim]
        out = torch.zeros_like(rows)
        log_sum = torch.full(rows.shape[:4], float("-inf"), device=cache.device)
        start = 0
        for segment, length in enumerate(cache.lengths.flatten().tolist()):
            if length:
                key, value = cache.keys[start : start + length], cache.values[start : start + length]
                out[segment], log_sum[segment] = attend_part(
                    rows[segment], key[None, None], value[None, None], self.scale
                )
            start += length
        return out.view_as(folded), log_sum.view(folded.shape[:3])

    def _buffer(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        log_sum: Float[Tensor, "batch query_heads tokens"],
        starts: Int[Tensor, " batch"],
        counts: Int[Tensor, " batch"] | None,
    ) -> None:
        """Keeps the queries until the update recomputes attention from them."""
        room = self.cache.tail_keys.shape[2]
        if self.queries.shape[2] < room:
            self.queries, self.log_sums = grow(self.queries, room), grow(self.log_sums, room)
        write_rows(self.queries, query, starts, counts)
        write_rows(self.log_sums, log_sum, starts, counts)

    def _drop_judged_queries(self) -> None:
        """Frees the buffers once every sequence's interval has been judged; they grow again with the next."""
        if not self.cache.tail_lengths.any():
            self.queries, self.log_sums = self.queries[:, :, :0].clone(), self.log_sums[:, :, :0].clone()

    def _note_peaks(self) -> None:
        """The most this layer has held: ever, in slots; during the present call, in bytes."""
        cache_bytes, state_bytes = self.call_peak
        self.call_peak = (max(cache_bytes, self.cache.cache_bytes()), max(state_bytes, self.state_bytes()))
        self.most_slots = max(self.most_slots, int(self.cache.slots().max()))

    def kept_positions(self) -> Int[Tensor, "batch kv_heads slots"]:
        """Positions of kept tokens and of the tail, padded with -1."""
        cache = self.cache
        slots = cache.slots()
        slot = torch.arange(int(slots.max()) if slots.numel() else 0)
        beyond = slot - cache.lengths[..., None]  # how far into the tail
        tail_start = (cache.seen - cache.tail_lengths)[:, None, None]
        out = torch.where(beyond < cache.tail_lengths[:, None, None], tail_start + beyond, -1)
        out[beyond < 0] = cache.positions.cpu().long()  # packed in just this order
        return out

    def state_bytes(self) -> int:
        """Bytes of positions, per-token state and buffered queries."""
        return self.cache.state_bytes() + self.queries.nbytes + self.log_sums.nbytes

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences."""
        self.cache.select(rows)
        self.sequences = self.sequences[rows]
        self.queries, self.log_sums = (
            self.queries[rows.to(self.queries.device)],
            self.log_sums[rows.to(self.queries.device)],
        )


def _check_shapes(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raises AttachError for heads, widths or lengths that do not fit."""
    fits = (
        query.dim() == key.dim() == value.dim() == 4
        and key.shape == value.shape
        and query.shape[0] == key.shape[0]
        and query.shape[2:] == key.shape[2:]
        and query.shape[1] % key.shape[1] == 0
    )
    if not fits:
        raise AttachError(
            f"Layer {layer}: expected query [batch, groups * kv_heads, tokens, head_dim] and key, value "
            f"[batch, kv_heads, tokens, head_dim], found {list(query.shape)}, {list(key.shape)}, {list(value.shape)}."
        )
