"""Where the tokens of one layer lie at an update: kept ones, and behind them those of the interval."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from namm.cache import LayerCache
from namm.rules import AttentionRule


@dataclass(frozen=True)
class Slots:
    """The slots of all sequences as a rectangle, and which sequences are judged."""

    rows: Int[Tensor, " rows"]
    """Sequences to judge."""

    is_everyone: bool
    """Whether these are all: then nothing need be picked, which would copy it."""

    index: Int[Tensor, "batch kv_heads kept"]
    """Kept slots, from :meth:`LayerCache.packed_index`."""

    in_kept: Bool[Tensor, "batch kv_heads kept"]
    """Which of them hold a token."""

    kept_positions: Int[Tensor, "batch kv_heads kept"]
    """Absolute positions of kept tokens; anything in unused slots."""

    tail_positions: Int[Tensor, "batch kv_heads interval"]
    """Absolute positions of the interval's tokens."""

    valid: Bool[Tensor, "batch kv_heads slots"]
    """Which slots hold a token that some later one can still see."""

    @classmethod
    def of(cls, cache: LayerCache, rule: AttentionRule, complete: Bool[Tensor, " batch"], interval: int) -> Slots:
        """The slots of a cache whose ``complete`` sequences hold so many tokens of the interval."""
        index, in_kept = cache.packed_index()
        kept_positions = cache.positions[index].long()
        tail_start = (cache.seen - cache.tail_lengths).to(cache.device)[:, None, None]
        tail_positions = (tail_start + torch.arange(interval, device=cache.device)).expand(-1, cache.kv_heads, -1)
        valid = torch.cat([in_kept, torch.ones_like(tail_positions, dtype=torch.bool)], dim=2)
        if rule.local is not None:  # what no later token can see is let go, whatever the policy says
            seen = cache.seen.to(cache.device)[:, None, None]
            valid &= rule.local.visible(seen, torch.cat([kept_positions, tail_positions], dim=2))
        rows = complete.nonzero().squeeze(1).to(cache.device)
        return cls(rows, bool(complete.all()), index, in_kept, kept_positions, tail_positions, valid)

    @property
    def interval(self) -> int:
        """Tokens of the interval."""
        return self.tail_positions.shape[2]

    def positions(self) -> Int[Tensor, "batch kv_heads slots"]:
        """Absolute positions, -1 where there is no token to judge."""
        return torch.cat([self.kept_positions, self.tail_positions], dim=2).masked_fill_(~self.valid, -1)

    def pick(self, tensor: Tensor) -> Tensor:
        """The judged sequences of a tensor that has one row for each."""
        return tensor if self.is_everyone else tensor[self.rows]

    def survivors(self, kept: Bool[Tensor, "rows kv_heads slots"]) -> Bool[Tensor, "batch kv_heads slots"]:
        """What stays of all sequences, where this is kept of the judged ones.

        The others' kept tokens stay, unjudged, and their tail stays where it is: none of it moves to the new store.
        """
        if self.is_everyone:
            return kept
        survivors = torch.cat([self.in_kept, torch.zeros_like(self.tail_positions, dtype=torch.bool)], dim=2)
        survivors[self.rows] = kept
        return survivors
