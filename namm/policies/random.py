"""Random eviction: the control that every clever rule has to beat at the same size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, Selection, TokenView


class Random(Policy):
    """Fresh independent draws for every token, head, layer and update.

    The draw is a hash of (seed, sequence, layer, head, position, tokens seen), not a stream: the same sequence gets
    the same draws whichever batch it is in, and a resumed run equals an uninterrupted one.
    """

    name = "random"

    def __init__(self, selection: Selection, seed: int = 0) -> None:
        super().__init__(selection)
        self.seed = seed

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Uniform in [0, 1)."""
        heads = torch.arange(view.positions.shape[1], device=view.positions.device)
        hashed = torch.full_like(view.positions, self.seed)
        for part in (
            view.sequences[:, None, None],
            torch.full_like(heads, view.layer)[None, :, None],
            heads[None, :, None],
            view.seen[:, None, None],
            view.positions,
        ):
            hashed = _mix(hashed ^ _mix(part + 1))
        return (hashed & 0xFFFFFF).float() / float(1 << 24)

    def describe(self) -> dict[str, object]:
        """Facts for a row, the seed included."""
        return {**super().describe(), "seed": self.seed}


def _mix(number: Tensor) -> Tensor:
    """An integer mixer of 32 bits (two rounds of shift, xor and odd multiplication), in int64 arithmetic."""
    number = number.long() & 0xFFFFFFFF
    for multiplier in (0x45D9F3B, 0x2C1B3C6D):
        number = ((number ^ (number >> 16)) * multiplier) & 0xFFFFFFFF
    return number ^ (number >> 15)
