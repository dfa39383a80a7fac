"""Attention over the packed part of a cache, whose heads keep different numbers of tokens.

Heads that keep equally many are a rectangle already. Long uneven heads are attended one by one. Short ones, of which a
batch of a small model has many, are gathered a few at a time into padded rectangles: one kernel call serves several
heads, a rectangle fits a processor's cache, and none lives longer than its call. Where each head's tokens lie changes
at updates only, so it is worked out once for all calls until the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.attention.parts import additive, attend_part
from namm.kernels.library import attend_ragged

PADDED_ELEMENTS = 1 << 14
"""Heads whose kept keys hold more numbers than this are attended one by one."""
GATHERED_ELEMENTS = 1 << 17
"""Numbers gathered at once, of keys and again of values (512 KiB in fp32)."""


@dataclass(frozen=True)
class Gathered:
    """Consecutive heads that are attended in one call."""

    heads: slice
    """Which."""
    index: Int[Tensor, " heads_slots"]
    """Their slots in the packed buffers, head after head, each head's filled up before its oldest token."""
    mask: Bool[Tensor, "heads 1 1 slots"] | Float[Tensor, "heads 1 1 slots"]
    """Which of these hold a token of the head, as :func:`attend_part` takes it."""


class Layout:
    """Where each head's tokens lie in the packed buffers: head after head, sequence after sequence."""

    def __init__(self, lengths: Int[Tensor, "batch kv_heads"], keys: Float[Tensor, "packed head_dim"]) -> None:
        """The layout of heads of these lengths.

        Args:
            lengths: Tokens of each head, on the CPU.
            keys: The packed keys, for their width, type and device.
        """
        self.shape, self.head_dim = tuple(lengths.shape), keys.shape[1]
        self.lengths: list[int] = lengths.flatten().tolist()
        self.longest = max(self.lengths, default=0)
        # even heads are a view: no copy, no mask, whatever their length
        self.is_even = all(length == self.longest for length in self.lengths)
        self.ends: Tensor | None = None
        if not self.is_even and keys.device.type != "cpu":  # for kernels that take uneven heads as they are
            self.ends = torch.tensor([0, *lengths.flatten().cumsum(0).tolist()], dtype=torch.int32).to(keys.device)
        self.groups: list[Gathered] = []
        if not self.is_even and self.longest * self.head_dim <= PADDED_ELEMENTS:
            self.groups = [self._gathered(first, last, keys) for first, last in self._spans(keys.device)]

    def attend(
        self,
        query: Float[Tensor, "batch kv_heads queries head_dim"],
        keys: Float[Tensor, "packed head_dim"],
        values: Float[Tensor, "packed value_dim"],
        scale: float,
        softcap: float | None = None,
    ) -> tuple[Float[Tensor, "batch kv_heads queries value_dim"], Float[Tensor, "batch kv_heads queries"]]:
        """Output over each head's own tokens, all of which every query sees, and the log-sum-exp of its logits."""
        if self.is_even:
            key, value = (packed.view(*self.shape, self.longest, packed.shape[1]) for packed in (keys, values))
            return attend_part(query, key, value, scale, softcap=softcap)
        if self.ends is not None and softcap is None:
            attended = attend_ragged(query.flatten(0, 1), keys, values, self.ends, self.longest, scale)
            if attended is not None:
                return attended[0].view(*query.shape[:3], -1), attended[1].view(query.shape[:3])
        rows = query.flatten(0, 1).unsqueeze(1)  # [heads, 1, queries, head_dim]
        parts = []
        for some in self.groups:
            rectangle = (some.mask.shape[0], 1, some.mask.shape[3], -1)
            key, value = (packed.index_select(0, some.index).view(rectangle) for packed in (keys, values))
            parts.append(attend_part(rows[some.heads], key, value, scale, some.mask, softcap=softcap))
        # long heads fill a processor by themselves; to gather them would copy the cache at every call
        start = 0
        for head, length in enumerate(self.lengths if not self.groups else ()):
            mine = rows[head : head + 1]
            if length:
                key, value = (packed[None, None, start : start + length] for packed in (keys, values))
                parts.append(attend_part(mine, key, value, scale, softcap=softcap))
            else:
                # joined with the interval, which always holds something, this weighs nothing
                nothing = torch.full(mine.shape[:3], -torch.inf, device=mine.device)
                parts.append((mine.new_zeros(*mine.shape[:3], values.shape[1]), nothing))
            start += length
        out, log_sum = (torch.cat(part) for part in zip(*parts, strict=True))
        return out.view(*query.shape[:3], -1), log_sum.view(query.shape[:3])

    def _spans(self, device: torch.device) -> Iterator[tuple[int, int]]:
        """First and last-but-one head of each group: as many as fit; a GPU gains nothing from small ones."""
        most = GATHERED_ELEMENTS // self.head_dim if device.type == "cpu" else sum(self.lengths) * len(self.lengths)
        first, widest = 0, 0
        for head, length in enumerate(self.lengths):
            widest = max(widest, length)
            if head > first and (head + 1 - first) * widest > most:
                yield first, head
                first, widest = head, length
        yield first, len(self.lengths)

    def _gathered(self, first: int, last: int, keys: Float[Tensor, "packed head_dim"]) -> Gathered:
        lengths = torch.tensor(self.lengths[first:last])
        ends = sum(self.lengths[:first]) + lengths.cumsum(0)
        slot = torch.arange(int(lengths.max())) - int(lengths.max())  # counted from the head's end
        mask = (slot >= -lengths[:, None])[:, None, None].to(keys.device)
        index = torch.where(mask.cpu()[:, 0, 0], ends[:, None] + slot, 0).flatten().to(keys.device)
        # additive once for all calls; but by a boolean mask alone attend_part tells that an empty head saw nothing
        if keys.device.type == "cpu" and bool(lengths.all()):
            return Gathered(slice(first, last), index, additive(mask, keys.dtype))
        return Gathered(slice(first, last), index, mask)
