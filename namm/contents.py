"""What one layer of a memory holds of a batch of sequences: all that is forked, selected and counted with it.

When a policy judges and how tokens are attended is the layer's business (namm/layer.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from namm.attention.eager import EagerAttention
from namm.cache import LayerCache
from namm.interval import Interval
from namm.one_pass import Observed
from namm.policies.base import State


@dataclass
class LayerContents:
    """Keys, values and what is remembered beside them."""

    cache: LayerCache
    """Kept tokens and the interval's, with their state."""

    interval: Interval
    """Queries since the last update."""

    eager: EagerAttention | None
    """Where the forward pass keeps probabilities itself; None where they are computed again."""

    head_state: State
    """What is remembered of heads."""

    sequences: Int[Tensor, " batch"]
    """Identities of the sequences."""

    observed: Observed | None = None
    """State after an interval that was attended and observed in one pass, until its update, which follows at once."""

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
        eager = 0 if self.eager is None else self.eager.nbytes
        heads = sum(tensor.nbytes for tensor in self.head_state.values())
        observed = 0 if self.observed is None else self.observed.nbytes
        return self.cache.state_bytes() + heads + self.interval.nbytes + eager + observed

    def take_observed(self) -> Observed | None:
        """What one pass observed, which is then forgotten."""
        observed, self.observed = self.observed, None
        return observed

    def trim(self) -> None:
        """Gives back the room of judged tokens and of their queries; it grows again with the next interval."""
        self.cache.trim_tail()
        self._trim_queries()

    def fork(self) -> LayerContents:
        """The same, going its own way."""
        return replace(
            self,
            cache=self.cache.fork(),
            interval=self.interval.fork(),
            eager=None if self.eager is None else self.eager.fork(),
            head_state={name: tensor.clone() for name, tensor in self.head_state.items()},
        )

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences."""
        self.cache.select(rows)
        self.sequences = self.sequences[rows]
        if self.eager is not None:
            self.eager.select(rows)
        self.head_state = {name: tensor[rows.to(tensor.device)] for name, tensor in self.head_state.items()}
        self.interval.select(rows)
        self._trim_queries()

    def _trim_queries(self) -> None:
        """Queries have as much room as the tail that they came with; none where no token of it is unjudged."""
        self.interval.trim(self.cache.tail_keys.shape[2] if self.cache.tail_lengths.any() else 0)
