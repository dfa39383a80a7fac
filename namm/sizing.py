"""The search for a size: one threshold for all heads and layers under which a policy keeps a part of the tokens.

What is kept under a threshold is known only when it has been tried: scores have units, and what has gone changes the
scores of what stays. No label is needed; what is read while trying is the modality's to choose, and to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError, DataError
from namm.policies.base import Policy, TokenView

TOLERANCE = 0.02
"""Part of the wanted size by which what is found may be off; then the search ends."""


class Sized(NamedTuple):
    """A threshold, and the part of the tokens that was held under it where it was found."""

    threshold: float
    kept_fraction: float


def search_threshold(
    scores: Sequence[Float[Tensor, " _"]], held: Callable[[float], float], kept_fraction: float, steps: int = 8
) -> Sized:
    """The best of some thresholds, or the first that is near enough; halves the scores given while all was kept.

    Args:
        scores: Of a pass under which everything was kept; what is tried is one of them.
        held: Tries a threshold: slots held / tokens seen.
        kept_fraction: What is wanted, between 0 and 1.
        steps: Thresholds that are tried at most.

    Raises:
        ConfigError: A fraction that cannot be.
        DataError: No token was scored: what was read is shorter than the interval.
    """
    if not 0.0 < kept_fraction < 1.0 or steps < 1:
        raise ConfigError(f"Expected a fraction between 0 and 1 and 1 step or more, found {kept_fraction} and {steps}.")
    if not sum(part.numel() for part in scores):
        raise DataError("Expected to read more than one interval to find a threshold, found no update: too short.")
    ranked = torch.cat(list(scores)).sort().values
    low, high, best = 0, ranked.numel() - 1, None
    for _ in range(steps):
        middle = (low + high) // 2
        threshold = float(ranked[middle])
        found = Sized(threshold, held(threshold))
        if best is None or abs(found.kept_fraction - kept_fraction) < abs(best.kept_fraction - kept_fraction):
            best = found
        if abs(found.kept_fraction - kept_fraction) <= TOLERANCE * kept_fraction:
            break
        low, high = (middle, high) if found.kept_fraction > kept_fraction else (low, middle)
    assert best is not None  # there was a step
    return best


def watched(policy: Policy) -> list[Float[Tensor, " tokens"]]:
    """From now on, the finite scores that the policy gives."""
    found: list[Tensor] = []
    original = policy.score

    def score(view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        scores = original(view)
        found.append(scores[view.valid & scores.isfinite()].float().cpu())
        return scores

    policy.score = score
    return found
