"""What is remembered of the queries of a layer's current interval, until its update asks who attended to what."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.buffers import grow, shrink, write_rows


class Interval:
    """Queries not judged by yet; with the log-sum-exp of its logits each gives any token's probability again.

    Attributes:
        queries: Heads of a group beside each other, ``[batch, query_heads, tokens, head_dim]``.
        log_sums: Of each query's logits over all that it saw, ``[batch, query_heads, tokens]`` in fp32.
        scale: Factor on the logits.
    """

    def __init__(self, query: Float[Tensor, "batch query_heads tokens head_dim"]) -> None:
        """No query yet; the shape, type and device are those of these."""
        self.queries = query.new_empty(*query.shape[:2], 0, query.shape[3])
        self.log_sums = torch.empty(*query.shape[:2], 0, device=query.device)
        self.scale = 1.0

    def add(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        log_sum: Float[Tensor, "batch query_heads tokens"],
        starts: Int[Tensor, " batch"],
        counts: Int[Tensor, " batch"] | None,
        first: int | None,
        room: int,
    ) -> None:
        """Remembers the queries of new tokens.

        Args:
            query: New queries.
            log_sum: Log-sum-exp of their logits.
            starts: Tokens of the interval before these.
            counts: How many of them, from the first, belong to each sequence; None if all do.
            first: The start of all, where they agree.
            room: Tokens to make room for: as many as the tail has, so that both grow at once.
        """
        if self.queries.shape[2] < room:
            self.queries, self.log_sums = grow(self.queries, room), grow(self.log_sums, room)
        write_rows(self.queries, query, starts, counts, first)
        write_rows(self.log_sums, log_sum, starts, counts, first)

    def trim(self, room: int) -> None:
        """Gives back the room beyond so many tokens."""
        self.queries, self.log_sums = shrink(self.queries, room), shrink(self.log_sums, room)

    def fork(self) -> Interval:
        """The same, going its own way."""
        other = copy.copy(self)
        other.queries, other.log_sums = self.queries.clone(), self.log_sums.clone()
        return other

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences."""
        rows = rows.to(self.queries.device)
        self.queries, self.log_sums = self.queries[rows], self.log_sums[rows]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.queries.nbytes + self.log_sums.nbytes
