"""The selection rule that all policies share: when they judge, and who survives, given the scores.

Padding, protected tokens, budgets, thresholds and the order of equals are handled here, once; a policy only scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.config import check_interval
from namm.errors import AttachError, ConfigError
from namm.policies.allocation import adaptive_kept, pyramid_budgets, rank_by_score


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Who survives an update, given the scores."""

    interval: int | None = 512
    """Tokens between two updates; None never updates."""

    schedule: Literal["interval", "prompt"] = "interval"
    """Update at every interval ("interval"), or once, after the first call, whatever its length, and never again
    ("prompt": compression of a prompt, as methods for prefill have it; the interval is then not used). What that call
    itself outputs, a generation's first token, is from before anything was forgotten."""

    budget: int | None = None
    """Slots kept per KV head after an update; None keeps whatever passes the threshold."""

    head_budgets: tuple[tuple[int, ...], ...] | None = None
    """A budget for each layer and KV head in place of one that is divided, as another policy's own allocation. Like
    every limit, none is smaller than the protected tokens, nor empties a head: who wants less protects less."""

    layer_allocation: Literal["uniform", "pyramid"] = "uniform"
    """The budget is every layer's ("uniform"), or the mean of layers that keep fewer the higher they are."""

    steepness: float = 20.0
    """Of the pyramid: the mean budget divided by the highest layer's (PyramidKV's beta)."""

    head_allocation: Literal["uniform", "adaptive"] = "uniform"
    """The budget is every head's ("uniform"), or the mean of heads that compete for their layer's slots."""

    safeguard: float = 0.2
    """Of competing heads: the part of an even share that each is sure of (Ada-KV's alpha)."""

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
        for name in ("interval", "budget", "protected_first", "protected_last"):
            _check_whole(name, getattr(self, name))
        for name in ("threshold", "steepness", "safeguard"):
            check_number(name, getattr(self, name))
        if self.interval is not None:
            check_interval(self.interval)
        if self.protected_first < 0 or self.protected_last < 0:
            raise ConfigError(
                f"Protected tokens are counts of 0 or more, found first={self.protected_first}, "
                f"last={self.protected_last}."
            )
        self._check_limits()
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                words = " or ".join(repr(word) for word in known)
                raise ConfigError(f"{name} must be {words}, found {getattr(self, name)!r}.")
        if not 1.0 <= self.steepness < math.inf:
            raise ConfigError(f"The pyramid's steepness must be at least 1 (even layers), found {self.steepness}.")
        if not 0.0 <= self.safeguard <= 1.0:
            raise ConfigError(f"The safeguard is a share from 0 to 1, found {self.safeguard}.")

    def _check_limits(self) -> None:
        """Raises ConfigError for a limit under which protected tokens, or all of a head's, would be lost."""
        if self.threshold is not None and math.isnan(self.threshold):
            raise ConfigError("The threshold must be a number, found NaN, which no score reaches.")
        if self.head_budgets is not None and self.budget is not None:
            raise ConfigError("Give one budget for all heads or head_budgets for each, not both.")
        if self.budget is not None:
            self._check_holds_protected("budget", self.budget)
        if self.head_budgets is None:
            return
        widths = {len(heads) for heads in self.head_budgets}
        if widths in (set(), {0}):
            raise ConfigError(f"head_budgets has a number for each layer and KV head, found {self.head_budgets!r}.")
        for layer, heads in enumerate(self.head_budgets):
            for head, budget in enumerate(heads):
                _check_whole(f"head_budgets[{layer}][{head}]", budget)
                self._check_holds_protected(f"head_budgets[{layer}][{head}]", budget)

    def _check_holds_protected(self, name: str, budget: int) -> None:
        protected = self.protected_first + self.protected_last
        if budget < max(1, protected):
            raise ConfigError(
                f"{name} must hold at least one token and the {protected} protected ones (first "
                f"{self.protected_first}, newest {self.protected_last}), found {budget}; raise it or protect fewer."
            )

    def check_fits(self, layer: int, kv_heads: int, depth: int | None) -> None:
        """Checks budgets of each head against a model.

        Args:
            layer: Index of a layer that attends.
            kv_heads: Its KV heads.
            depth: Layers of the model; None where nobody said.

        Raises:
            AttachError: They are those of a model of another shape.
        """
        if self.head_budgets is None:
            return
        rows = len(self.head_budgets)
        fits = rows > layer if depth is None else rows == depth
        if not fits or len(self.head_budgets[layer]) != kv_heads:
            layers = f"at least {layer + 1}" if depth is None else str(depth)
            found = f"{len(self.head_budgets[layer])} heads for this layer" if fits else f"{rows} layers"
            raise AttachError(
                f"head_budgets must be [layers][KV heads] of the model: layer {layer} has {kv_heads} KV heads and the "
                f"model {layers} layers; found budgets for {found}. Give the allocation of a model of this shape, or "
                "one budget for all."
            )

    @property
    def smallest_budget(self) -> int | None:
        """Slots of the head that may keep fewest, before any division of the budget; None without a budget."""
        if self.head_budgets is not None:
            return min(min(layer) for layer in self.head_budgets)
        return self.budget

    def keep(
        self,
        scores: Float[Tensor, "batch kv_heads slots"],
        positions: Int[Tensor, "batch kv_heads slots"],
        valid: Bool[Tensor, "batch kv_heads slots"],
        seen: Int[Tensor, " batch"],
        layer: int = 0,
        depth: int | None = None,
    ) -> Bool[Tensor, "batch kv_heads slots"]:
        """The survivors: protected tokens first, then by score; of equal scores the newer token wins.

        Args:
            scores: Larger is better; +inf is as good as protected. NaN counts as the lowest.
            positions: Absolute position of each token.
            valid: Which slots hold a token.
            seen: Tokens of each sequence so far.
            layer: Index of the layer, for budgets of its own.
            depth: Layers of the model, for budgets that depend on it.
        """
        scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        protected = (positions < self.protected_first) | (positions >= seen[:, None, None] - self.protected_last)
        scores = scores.masked_fill(protected & valid, torch.inf).masked_fill(~valid, -torch.inf)
        kept = valid.clone()
        if self.threshold is not None:
            kept &= scores >= self.threshold
        if self.budget is None and self.head_budgets is None and self.heads == "ragged":
            return kept
        rank = rank_by_score(scores, valid)
        if self.budget is not None or self.head_budgets is not None:
            kept &= self._within_budget(scores, valid, rank, seen, layer, depth)
        if self.heads == "equal":
            most = kept.sum(-1).amax(-1)  # of each sequence alone, so that a batch equals its members
            kept = valid & (rank < most[:, None, None])
        return kept

    def _within_budget(
        self,
        scores: Float[Tensor, "batch kv_heads slots"],
        valid: Bool[Tensor, "batch kv_heads slots"],
        rank: Int[Tensor, "batch kv_heads slots"],
        seen: Int[Tensor, " batch"],
        layer: int,
        depth: int | None,
    ) -> Bool[Tensor, "batch kv_heads slots"]:
        """Tokens that the budget has slots for, however it is divided."""
        if self.head_budgets is not None:
            return rank < torch.tensor(self.head_budgets[layer], device=rank.device)[None, :, None]
        assert self.budget is not None  # only called where there is a limit
        budgets = torch.full_like(seen, self.budget)
        if self.layer_allocation == "pyramid":
            certain = scores.isposinf().sum(-1).amax(-1)
            budgets = pyramid_budgets(self.budget, certain, seen, layer, depth, self.steepness)
        if self.head_allocation == "adaptive":
            return adaptive_kept(scores, valid, budgets[:, None].expand(scores.shape[:2]), self.safeguard)
        return rank < budgets[:, None, None]


def _check_whole(name: str, value: object) -> None:
    """Raises ConfigError for a count that is not a whole number; none at all is a matter of the field."""
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
        raise ConfigError(f"{name} must be a whole number, found {value!r}.")


def check_number(name: str, value: object) -> None:
    """Raises ConfigError for what is no number; which numbers fit is a matter of the field."""
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__float__")):
        raise ConfigError(f"{name} must be a number, found {value!r}.")


_CHOICES = {
    "heads": ("ragged", "equal"),
    "schedule": ("interval", "prompt"),
    "layer_allocation": ("uniform", "pyramid"),
    "head_allocation": ("uniform", "adaptive"),
}
