"""Attention as the released code computes it: probabilities in the model's own type, materialised chunk by chunk.

Fused attention is more exact and needs no memory for probabilities, but in half precision it rounds elsewhere, and a
score near the threshold then falls on the other side. Here logits and scaling are in the model's type, the softmax in
fp32, and its result, rounded to the model's type, both weighs the values and is what the policy observes. Each sequence
is computed alone, so a batch equals its members bit for bit. Source: arXiv 2410.13166's released code.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from namm.cache import LayerCache


class EagerAttention:
    """Forward pass of one layer, and the probabilities of its current interval, averaged over each query group.

    Attributes:
        rows: Of each sequence, pieces ``[kv_heads, queries, slots]``; a later piece may have more slots.
    """

    def __init__(self, batch: int, chunk: int, observes: bool) -> None:
        """Nothing computed yet.

        Args:
            batch: Sequences.
            chunk: Most queries attended together; chunks begin at its absolute multiples.
            observes: Whether probabilities are kept until the update.
        """
        self.chunk, self.observes = chunk, observes
        self.rows: list[list[Tensor]] = [[] for _ in range(batch)]

    def attend(
        self,
        cache: LayerCache,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        starts: Int[Tensor, " batch"],
        scale: float,
    ) -> Float[Tensor, "batch query_heads tokens head_dim"]:
        """Output for tokens that the cache already holds at the end of its tail; zero beyond a row's own tokens.

        Args:
            cache: Every head of a sequence keeps equally many.
            query: New queries; those beyond what a row added are not real.
            starts: Tokens of the interval before these.
            scale: Factor on the logits.
        """
        out = torch.zeros_like(query)
        spans = cache.lengths.sum(1).cumsum(0).tolist()
        for row in range(cache.batch):
            held, first = int(cache.lengths[row, 0]), int(starts[row])
            packed = slice(spans[row] - held * cache.kv_heads, spans[row])
            kept_keys, kept_values = (
                t[packed].view(cache.kv_heads, held, cache.head_dim) for t in (cache.keys, cache.values)
            )
            last = int(cache.tail_lengths[row])
            begin = first
            while begin < last:
                end = min(last, (begin // self.chunk + 1) * self.chunk)
                keys = torch.cat([kept_keys, cache.tail_keys[row, :, :end]], dim=1)
                values = torch.cat([kept_values, cache.tail_values[row, :, :end]], dim=1)
                asked = slice(begin - first, end - first)
                out[row, :, asked] = self._attend_chunk(row, query[row, :, asked], keys, values, scale)
                begin = end
        return out

    def _attend_chunk(
        self,
        row: int,
        query: Float[Tensor, "query_heads queries head_dim"],
        keys: Float[Tensor, "kv_heads slots head_dim"],
        values: Float[Tensor, "kv_heads slots head_dim"],
        scale: float,
    ) -> Float[Tensor, "query_heads queries head_dim"]:
        """The newest queries, the last of which sees every slot."""
        queries, slots = query.shape[1], keys.shape[1]
        group = query.shape[0] // keys.shape[0]
        every_key, every_value = (t.repeat_interleave(group, dim=0) for t in (keys, values))
        logits = torch.matmul(query, every_key.transpose(1, 2)) / (1.0 / scale)  # two roundings, as a division
        unseen = torch.ones(queries, slots, dtype=torch.bool, device=query.device).triu(slots - queries + 1)
        logits = logits.masked_fill(unseen, torch.finfo(logits.dtype).min)
        weights = logits.softmax(-1, dtype=torch.float32).to(query.dtype)
        if self.observes:
            self.rows[row].append(weights.unflatten(0, (-1, group)).mean(1))
        return torch.matmul(weights, every_value)

    def take_columns(self, row: int) -> Float[Tensor, "kv_heads slots queries"]:
        """Attention each token of a sequence received in the interval, which is then forgotten."""
        pieces, self.rows[row] = self.rows[row], []
        slots = pieces[-1].shape[2]
        return torch.cat([pad(piece, (0, slots - piece.shape[2])) for piece in pieces], dim=1).transpose(1, 2)

    def fork(self) -> EagerAttention:
        """The same, going its own way; what was observed is shared, for pieces never change."""
        other = copy.copy(self)
        other.rows = [list(pieces) for pieces in self.rows]
        return other

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences; what a repeated one has observed is shared, for pieces never change."""
        self.rows = [list(self.rows[row]) for row in rows.tolist()]

    @property
    def nbytes(self) -> int:
        """Bytes of probabilities held."""
        return sum(piece.nbytes for pieces in self.rows for piece in pieces)
