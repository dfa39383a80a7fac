"""The search for a size: one threshold for all heads and layers under which a policy keeps a part of the tokens.

What is kept under a threshold is known only when it has been tried: scores have units, and what has gone changes the
scores of what stays. No label is needed; what is read while trying is the modality's to choose, and to say.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError, DataError
from namm.policies.base import Policy, TokenView

TOLERANCE = 0.02
"""Part of the wanted size by which what is found may be off; then the search ends."""
FAR = 0.1
"""Part of the wanted size from which on what was found is said to be another one."""
STEPS = 8
"""Thresholds that are tried at most."""


class Sized(NamedTuple):
    """A threshold, and the part of the tokens that was held under it where it was found."""

    threshold: float
    kept_fraction: float


def described() -> dict[str, float | int | str]:
    """How sizes are found, for whoever must tell results apart that were found otherwise."""
    return {"steps": STEPS, "tolerance": TOLERANCE, "search": "log-odds"}


def found_size(
    under: Callable[[float], Policy], held: Callable[[Policy], float], kept_fraction: float, steps: int = STEPS
) -> Sized:
    """The threshold under which a policy keeps nearest to a part of the tokens.

    Args:
        under: The policy under a threshold.
        held: Reads or plays under a policy, always the same: slots held / tokens seen.
        kept_fraction: What is wanted, between 0 and 1.
        steps: Thresholds that are tried at most, beside a first pass under which everything is kept.

    Raises:
        ConfigError: A fraction that cannot be.
        DataError: No token was scored: what was read is shorter than the interval.
    """
    if not 0.0 < kept_fraction < 1.0 or steps < 1:
        raise ConfigError(f"Expected a fraction between 0 and 1 and 1 step or more, found {kept_fraction} and {steps}.")
    everything = under(-torch.finfo(torch.float32).max)
    scores = _watched(everything)
    held(everything)
    if not sum(part.numel() for part in scores):
        raise DataError("Expected to read more than one interval to find a threshold, found no update: too short.")
    ranked = torch.cat(scores).sort().values
    found = _search(ranked, lambda threshold: held(under(threshold)), kept_fraction, steps)
    if abs(found.kept_fraction - kept_fraction) > FAR * kept_fraction:
        warnings.warn(
            f"{everything.name}: {kept_fraction:.1%} of the tokens were to be kept, and of {steps} thresholds the best "
            f"keeps {found.kept_fraction:.1%}; compare it with others of that size.",
            stacklevel=2,
        )
    return found


def _search(ranked: Float[Tensor, " scores"], held: Callable[[float], float], wanted: float, steps: int) -> Sized:
    """The best of some thresholds, or the first that is near enough.

    What is tried is one of the scores. In log-odds the part that is held falls about as fast as the threshold's rank
    rises, whether scores stay (held is what passes) or are made anew at each update (held is about p / (1 - p)
    intervals where a part p passes); so the next try is drawn from there, and halves what is left where that misses.
    """
    last = ranked.numel() - 1
    low, high = -1, last + 1  # ranks at which too much and too little is held
    tried: dict[int, float] = {}
    rank = round((1.0 - wanted) * last)
    best: Sized | None = None
    for _ in range(steps):
        found = Sized(float(ranked[rank]), held(float(ranked[rank])))
        tried[rank] = found.kept_fraction
        if best is None or abs(found.kept_fraction - wanted) < abs(best.kept_fraction - wanted):
            best = found
        if abs(found.kept_fraction - wanted) <= TOLERANCE * wanted:
            break
        before = high - low
        low, high = (rank, high) if found.kept_fraction > wanted else (low, rank)
        if high - low < 2:
            break
        halve = {low, high} <= tried.keys() and 2 * (high - low) > before
        rank = (low + high) // 2 if halve else min(max(_next(tried, low, high, last, wanted), low + 1), high - 1)
    assert best is not None  # there was a step
    return best


def _next(tried: Mapping[int, float], low: int, high: int, last: int, wanted: float) -> int:
    """The rank to try between two, of which at least one has been tried."""
    aim = _log_odds(wanted)
    ends = [(_log_odds((rank + 0.5) / (last + 1)), _log_odds(tried[rank])) for rank in (low, high) if rank in tried]
    if len(ends) == 2:
        (left, above), (right, below) = ends
        place = left + (right - left) * (above - aim) / (above - below)
    else:
        [(place, reached)] = ends
        place += (reached - aim) * (1.0 if len(tried) == 1 else 2.0)  # twice as far where that fell short
    return round((last + 1) / (1.0 + math.exp(-place)) - 0.5)


def _log_odds(part: float) -> float:
    part = min(max(part, 1e-3), 1.0 - 1e-3)  # what is told of "all" and "nothing" is not how far off they are
    return math.log(part / (1.0 - part))


def _watched(policy: Policy) -> list[Float[Tensor, " tokens"]]:
    """From now on, the finite scores that the policy gives."""
    found: list[Tensor] = []
    original = policy.score

    def score(view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        scores = original(view)
        found.append(scores[view.valid & scores.isfinite()].float().cpu())
        return scores

    policy.score = score
    return found
