"""What an eviction policy is: what it watches, how it scores, and the selection rule that all policies share.

A policy never touches the cache. At an update it gets a view of each head's tokens and returns one score a token;
padding, protected tokens, budgets, thresholds and order are handled here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.config import check_interval
from namm.errors import ConfigError

State = dict[str, Tensor]
"""Per-token state by name, ``[batch, kv_heads, slots, *shape]`` in fp32; new tokens start at zero."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Who survives an update, given the scores."""

    interval: int | None = 512
    """Tokens between two updates; None never updates."""

    budget: int | None = None
    """Slots kept per KV head after an update; None keeps whatever passes the threshold."""

    head_budgets: tuple[tuple[int, ...], ...] | None = None
    """A budget for each layer and KV head in place of one for all, as another policy's own allocation."""

    threshold: float | None = None
    """Lowest score that is kept; None leaves the choice to the budget."""

    protected_first: int = 0
    """Oldest tokens of each sequence that are never evicted (attention sinks)."""

    protected_last: int = 1
    """Newest tokens of each sequence that are never evicted."""

    heads: Literal["ragged", "equal"] = "ragged"
    """Each head keeps exactly its own tokens ("ragged"), or every head of a layer as many as the one that keeps
    most, filled up with its best rejected tokens ("equal", as the released code does)."""

    def __post_init__(self) -> None:
        if self.interval is not None:
            check_interval(self.interval)
        if self.protected_first < 0 or self.protected_last < 0:
            raise ConfigError(
                f"Protected tokens are counts of 0 or more, found first={self.protected_first}, "
                f"last={self.protected_last}."
            )
        protected = self.protected_first + self.protected_last
        if self.budget is not None and self.budget < max(1, protected):
            raise ConfigError(
                f"The budget must hold at least the {protected} protected tokens (first {self.protected_first}, "
                f"newest {self.protected_last}), found {self.budget}; raise --budget or protect fewer."
            )
        if self.head_budgets is not None and self.budget is not None:
            raise ConfigError("Give one budget for all heads or head_budgets for each, not both.")
        if self.heads not in ("ragged", "equal"):
            raise ConfigError(f"heads must be 'ragged' or 'equal', found {self.heads!r}.")

    def keep(
        self,
        scores: Float[Tensor, "batch kv_heads slots"],
        positions: Int[Tensor, "batch kv_heads slots"],
        valid: Bool[Tensor, "batch kv_heads slots"],
        seen: Int[Tensor, " batch"],
        layer: int = 0,
    ) -> Bool[Tensor, "batch kv_heads slots"]:
        """The survivors: protected tokens first, then by score; of equal scores the newer token wins.

        Args:
            scores: Larger is better. NaN counts as the lowest.
            positions: Absolute position of each token.
            valid: Which slots hold a token.
            seen: Tokens of each sequence so far.
            layer: Index of the layer, for budgets of its own.
        """
        scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        protected = (positions < self.protected_first) | (positions >= seen[:, None, None] - self.protected_last)
        scores = scores.masked_fill(protected & valid, torch.inf).masked_fill(~valid, -torch.inf)
        kept = valid.clone()
        if self.threshold is not None:
            kept &= scores >= self.threshold
        if self.budget is None and self.head_budgets is None and self.heads == "ragged":
            return kept
        rank = _rank(scores.masked_fill(~valid, -torch.inf), valid)
        if self.budget is not None:
            kept &= rank < self.budget
        if self.head_budgets is not None:
            kept &= rank < torch.tensor(self.head_budgets[layer], device=rank.device)[None, :, None]
        if self.heads == "equal":
            most = kept.sum(-1).amax(-1)  # of each sequence alone, so that a batch equals its members
            kept = valid & (rank < most[:, None, None])
        return kept


def _rank(
    scores: Float[Tensor, "batch kv_heads slots"], valid: Bool[Tensor, "batch kv_heads slots"]
) -> Int[Tensor, "batch kv_heads slots"]:
    """Place of each token by score within its head, 0 the best; valid before invalid, newer before older."""
    newest_first = scores.flip(-1)
    order = newest_first.argsort(dim=-1, descending=True, stable=True)
    # unused slots score -inf as a hopeless token may: a second stable sort puts them behind every token
    used_first = valid.flip(-1).gather(-1, order).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, used_first)
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place).flip(-1)


@dataclass(frozen=True)
class TokenView:
    """What a policy sees of one layer at an update: slots oldest first, unused ones before the oldest token."""

    layer: int
    """Index of the layer."""

    positions: Int[Tensor, "batch kv_heads slots"]
    """Absolute position of each token; -1 in unused slots."""

    valid: Bool[Tensor, "batch kv_heads slots"]
    """Which slots hold a token."""

    seen: Int[Tensor, " batch"]
    """Tokens of each sequence so far."""

    sequences: Int[Tensor, " batch"]
    """Identity of each batch row; survives rows that leave the batch."""

    state: State
    """The policy's own per-token state, already carried over this interval."""

    keys: Callable[[], Float[Tensor, "batch kv_heads slots head_dim"]]
    """Gathers the cached keys, for policies that judge by them."""

    @property
    def age(self) -> Int[Tensor, "batch kv_heads slots"]:
        """Tokens since each token; the newest has age 0."""
        return (self.seen[:, None, None] - 1 - self.positions).clamp_min(0)


class Policy(ABC):
    """One eviction policy. Subclasses are final; each lives in a file of its own."""

    name: ClassVar[str]
    """Registry name."""

    observes_attention: ClassVar[bool] = False
    """Whether :meth:`observe` must be called; then queries are buffered and columns recomputed at updates."""

    eager_chunk: int | None = None
    """Queries attended together by :mod:`namm.eager`; None for fused attention."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and trailing shapes of the per-token state that travels with the cache."""
        return {}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State) -> State:
        """New state of some tokens, given the attention they received in the interval.

        Called block by block, so a token's new state may depend on nothing but its own column and state.
        """
        return state

    @abstractmethod
    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """One score a token, larger = keep."""

    def describe(self) -> dict[str, object]:
        """What decides this policy's behaviour, as JSON-able facts for a result row."""
        selection = self.selection
        return {
            "policy": self.name,
            "interval": selection.interval,
            "budget": selection.budget,
            "head_budgets": selection.head_budgets,
            "threshold": selection.threshold,
            "protected_first": selection.protected_first,
            "protected_last": selection.protected_last,
            "heads": selection.heads,
        }
