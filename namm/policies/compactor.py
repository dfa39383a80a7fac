"""Compactor: leverage of the keys, and what tokens nearby look at in both directions (arXiv 2507.08143).

The tokens of an interval attend to each other in chunks without a causal mask and without a scale, as in the authors'
code; what a token receives, times its value's norm, smoothed over its two neighbours, is its attention score, which
stays with it. At an update that and the leverage of all keys held are z-scored and added.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool1d

from namm.errors import ConfigError
from namm.policies.base import Policy, Selection, TokenView
from namm.policies.leverage import check_sketch, leverage, z_scored

BLEND = 0.35
"""Weight of the leverage where no budget says how much goes."""


class Compactor(Policy):
    """``blend`` times z-scored leverage, and z-scored attention without a causal mask."""

    name = "compactor"
    reads_queries = True
    reads_rotation = True
    defaults: ClassVar = {"protected_first": 8, "protected_last": 4}

    def __init__(
        self, selection: Selection, blend: float | None = None, chunk: int = 256, sketch: int = 48, seed: int = 0
    ) -> None:
        """A blend of two scores.

        Args:
            selection: The shared selection rule; its protected tokens take no part in the scores.
            blend: Weight of the leverage; by default the part of the held tokens that the budget lets go.
            chunk: Tokens that look at each other.
            sketch: Numbers that each key is projected to.
            seed: Of the projection.

        Raises:
            ConfigError: A chunk or a sketch of nothing.
        """
        super().__init__(selection)
        check_sketch(sketch)
        if chunk < 1:
            raise ConfigError(f"A chunk holds 1 token or more, found {chunk}.")
        self.blend, self.chunk, self.sketch, self.seed = blend, chunk, sketch, seed

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """One number a token: what it received in its own interval."""
        return {"received": ()}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """The blend; 0 for protected tokens."""
        first, last = self.selection.protected_first, self.selection.protected_last
        newest = view.positions >= view.seen[:, None, None] - last
        judged = view.valid & (view.positions >= first) & ~newest
        view.state["received"] = self._received(view, view.valid & (view.positions >= first))
        attended = z_scored(view.state["received"], judged)
        return self._weight(view) * leverage(view, judged, self.sketch, self.seed) + attended

    def _received(
        self, view: TokenView, eligible: Bool[Tensor, "batch kv_heads slots"]
    ) -> Float[Tensor, "batch kv_heads slots"]:
        """What each token received: those of the interval now, the others in their own."""
        asked = view.queries()
        count = asked.positions.shape[1]
        among = eligible[:, :, -count:]
        if self.selection.schedule == "prompt":  # never judged again: the newest take no part, as in the paper
            among = among & (view.positions[:, :, -count:] < (view.seen - self.selection.protected_last)[:, None, None])
        keys, values = (states[:, :, -count:].float() for states in (view.keys(), view.values()))
        received = self._attended(asked.states.float(), keys, among) * values.norm(dim=-1)
        pooled = avg_pool1d(received * among, 3, stride=1, padding=1) * among
        return torch.cat([view.state["received"][:, :, :-count], pooled], dim=2)

    def _attended(
        self,
        queries: Float[Tensor, "batch query_heads tokens head_dim"],
        keys: Float[Tensor, "batch kv_heads tokens head_dim"],
        among: Bool[Tensor, "batch kv_heads tokens"],
    ) -> Float[Tensor, "batch kv_heads tokens"]:
        """Attention from all tokens of the chunk, later ones included, mean over the group."""
        heads, tokens = keys.shape[1:3]
        chunk = min(self.chunk, tokens)
        taking = among[:, 0]  # protected tokens are those of all heads
        begin = torch.where(taking.any(1), taking.to(torch.int8).argmax(1), 0)  # chunks begin behind the sinks
        place = begin[:, None] + torch.arange(-(-tokens // chunk) * chunk, device=keys.device)
        index = place.clamp_max(tokens - 1)
        held = (place < tokens) & taking.gather(1, index)
        held = held.unflatten(1, (-1, chunk))[:, None]  # [batch, 1, chunks, chunk]

        def chunks(states: Float[Tensor, "batch heads tokens head_dim"]) -> Tensor:
            wanted = index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
            return states.gather(2, wanted).unflatten(2, (-1, chunk))

        key, grouped = chunks(keys), chunks(queries).unflatten(1, (heads, -1))
        received = torch.zeros(key.shape[:4], device=keys.device)
        for head in range(grouped.shape[2]):  # one of the group at a time
            dots = torch.matmul(grouped[:, :, head], key.transpose(-1, -2)).masked_fill(~held[..., None, :], -torch.inf)
            received += (dots.softmax(-1).nan_to_num(0.0) * held[..., None]).sum(-2) / grouped.shape[2]
        back = (torch.arange(tokens, device=keys.device) - begin[:, None]).clamp_min(0)
        return received.flatten(2).gather(2, back[:, None].expand(-1, heads, -1))

    def _weight(self, view: TokenView) -> float | Float[Tensor, "batch 1 1"]:
        """How much the leverage counts."""
        budget = self.selection.smallest_budget
        if self.blend is not None or budget is None:
            return BLEND if self.blend is None else self.blend
        held = view.valid.sum(-1).float().mean(-1)
        return (1.0 - budget / held).clamp_min(0.0)[:, None, None]

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        own = {"blend": self.blend, "chunk": self.chunk, "sketch": self.sketch, "seed": self.seed}
        return {**super().describe(), **own}
