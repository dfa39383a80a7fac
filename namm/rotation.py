"""Rotary positions, for policies that judge queries or keys without them or at positions that have not come yet.

A model that encodes positions by rotation turns pairs of a state's numbers by an angle proportional to the position
(RoPE, arXiv 2104.09864). What a memory holds is turned already. Whoever attaches a model tells the memory how, layer by
layer (``Memory.tell_rotations``); a model that encodes positions in another way is :data:`UNTURNED`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotation:
    """How one layer turns its queries and keys."""

    frequencies: Float[Tensor, " pairs"]
    """Radians per token of each pair."""

    interleaved: bool = False
    """Pairs are neighbours (0 and 1, 2 and 3, ..) instead of halves (0 and ``pairs``, 1 and ``pairs + 1``, ..)."""

    begins: int = 0
    """First of the numbers that are turned; those before it and behind the last pair are left alone."""

    @property
    def width(self) -> int:
        """How many numbers of a state are turned."""
        return 2 * self.frequencies.shape[0]

    def turned(
        self, states: Float[Tensor, "*rows head_dim"], positions: Int[Tensor, "*#rows"]
    ) -> Float[Tensor, "*rows head_dim"]:
        """States turned to positions; negative positions turn back.

        Args:
            states: Queries or keys.
            positions: One a state; shapes broadcast.
        """
        if not self.width:
            return states
        angle = positions[..., None].to(torch.float32) * self.frequencies.to(states.device)
        before, turning, behind = states.split(self._parts(states.shape[-1]), dim=-1)
        one, other = self._pairs(turning)
        cos, sin = angle.cos(), angle.sin()
        pairs = self._joined(one * cos - other * sin, other * cos + one * sin)
        return torch.cat([before, pairs, behind], dim=-1)

    def mean_matrix(
        self, first: Int[Tensor, " batch"], count: int, head_dim: int
    ) -> Float[Tensor, "batch head_dim head_dim"]:
        """The mean of the matrices that turn a state to each of some consecutive positions.

        Args:
            first: The first position of each sequence.
            count: How many.
            head_dim: Width of a state.
        """
        identity = torch.eye(head_dim, device=first.device)
        positions = first[:, None] + torch.arange(count, device=first.device)
        # turning is linear: each unit vector, turned to every position, then the mean
        angle = positions[..., None].to(torch.float32) * self.frequencies.to(first.device)
        cos, sin = angle.cos().mean(1)[:, None], angle.sin().mean(1)[:, None]  # [batch, 1, pairs]
        before, turning, behind = identity.split(self._parts(head_dim), dim=-1)
        one, other = self._pairs(turning)
        pairs = self._joined(one * cos - other * sin, other * cos + one * sin)  # [batch, head_dim, width]
        sides = (side.expand(first.shape[0], -1, -1) for side in (before, behind))
        return torch.cat([next(sides), pairs, next(sides)], dim=-1).transpose(1, 2)

    def _parts(self, head_dim: int) -> list[int]:
        return [self.begins, self.width, head_dim - self.begins - self.width]

    def _pairs(self, turning: Float[Tensor, "*rows width"]) -> tuple[Tensor, Tensor]:
        if self.interleaved:
            return turning[..., 0::2], turning[..., 1::2]
        one, other = turning.chunk(2, dim=-1)
        return one, other

    def _joined(self, one: Float[Tensor, "*rows pairs"], other: Float[Tensor, "*rows pairs"]) -> Tensor:
        if self.interleaved:
            return torch.stack([one, other], dim=-1).flatten(-2)
        return torch.cat([one, other], dim=-1)


UNTURNED = Rotation(torch.zeros(0))
"""Of a layer whose queries and keys show no position by rotation."""
