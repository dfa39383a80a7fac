"""What is held now for the live episodes of a batch, by an attached memory or by an agent without one.

What an agent without a cache re-encodes at every step is described in the same terms, so that it can stand beside the
policies in every table and picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from evaluations.control.sizes import TOKENS_PER_STEP
from namm import Memory


class Holdings(Protocol):
    """What is held now for the live episodes, in batch order."""

    def slots(self) -> Float[np.ndarray, " episodes"]:
        """Slots held, mean over layers and KV heads."""
        ...

    def positions(self) -> list[Int[np.ndarray, "episodes kv_heads slots"]]:
        """Absolute positions of the held tokens, one array a layer, -1 where there is none."""
        ...

    def bytes(self) -> tuple[int, int] | None:
        """Bytes of keys and values, and of the policy's state, for all live episodes; None where nothing is cached."""
        ...


class MemoryHoldings:
    """What an attached memory holds."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def slots(self) -> Float[np.ndarray, " episodes"]:
        """See Holdings."""
        return self.memory.slots().float().mean(dim=(1, 2)).cpu().numpy()

    def positions(self) -> list[Int[np.ndarray, "episodes kv_heads slots"]]:
        """See Holdings."""
        layers = self.memory.slots().shape[1]
        return [self.memory.kept_positions(layer).cpu().numpy() for layer in range(layers)]

    def bytes(self) -> tuple[int, int] | None:
        """See Holdings."""
        return self.memory.cache_bytes(), self.memory.state_bytes()


class WindowHoldings:
    """What an agent sees that re-encodes its newest steps: their tokens, without the action that is not yet chosen."""

    def __init__(self, context_steps: int, episodes: int) -> None:
        self.tokens = TOKENS_PER_STEP * context_steps - 1
        self.step, self.live = 0, episodes

    def advance(self, step: int, live: Sequence[int]) -> None:
        """Tells it the time."""
        self.step, self.live = step, len(live)

    def slots(self) -> Float[np.ndarray, " episodes"]:
        """See Holdings."""
        return np.full(self.live, float(min(self.tokens, TOKENS_PER_STEP * self.step + 2)))

    def positions(self) -> list[Int[np.ndarray, "episodes kv_heads slots"]]:
        """See Holdings."""
        seen = TOKENS_PER_STEP * self.step + 2
        newest = np.arange(max(0, seen - self.tokens), seen)
        return [np.broadcast_to(newest, (self.live, 1, len(newest)))]

    def bytes(self) -> tuple[int, int] | None:
        """See Holdings."""
        return None
