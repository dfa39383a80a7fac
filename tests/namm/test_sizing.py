"""The search for a threshold: how near it comes, in how few readings, and what it says where nothing can be found."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError, DataError
from namm.policies import Policy, Selection, TokenView
from namm.sizing import STEPS, TOLERANCE, found_size

SCORES = torch.randn(1, 2, 2000, generator=torch.Generator().manual_seed(3))
PLACES = torch.arange(2000).expand(1, 2, 2000)
VIEW = TokenView(
    0, PLACES, torch.ones_like(PLACES, dtype=torch.bool), torch.tensor([2000]), torch.tensor([0]), {}, {},
    *[lambda: PLACES.float()] * 2, lambda: PLACES,
)  # fmt: skip


class Known(Policy):
    """Scores that are known beforehand."""

    name = "known"

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        del view
        return SCORES


def under(threshold: float) -> Policy:
    return Known(Selection(interval=16, threshold=threshold))


class World:
    """What is held under a policy follows from the part of the scores that passes."""

    def __init__(self, held_of: Callable[[float], float]) -> None:
        self.held_of, self.readings = held_of, 0

    def held(self, policy: Policy) -> float:
        self.readings += 1
        scores = policy.score(VIEW)
        assert policy.selection.threshold is not None
        return self.held_of(float((scores >= policy.selection.threshold).double().mean()))


WORLDS: dict[str, Callable[[float], float]] = {
    "scores stay": lambda passing: passing,
    "scores are made anew at each update": lambda passing: min(1.0, 0.06 * passing / max(1 - passing, 1e-9)),
    "the newest tokens stay whatever they score": lambda passing: 0.05 + 0.95 * passing**3,
    "steep": lambda passing: 1 / (1 + math.exp(-40 * (passing - 0.7))),
}
"""What is held / seen where a part of the scores passes."""


@pytest.mark.parametrize("wanted", [0.06, 0.25, 0.4])
@pytest.mark.parametrize("world", WORLDS)
def test_a_size_is_found_in_few_readings(world: str, wanted: float) -> None:
    here = World(WORLDS[world])
    found = found_size(under, here.held, wanted)
    assert found.kept_fraction == pytest.approx(wanted, rel=TOLERANCE)
    assert here.readings <= 1 + STEPS
    assert here.held(under(found.threshold)) == found.kept_fraction


def test_where_scores_stay_two_readings_are_enough() -> None:
    here = World(WORLDS["scores stay"])
    found_size(under, here.held, 0.25)
    assert here.readings == 2, "the first of them keeps everything"


def test_the_nearest_of_all_tries_is_taken_where_none_is_near() -> None:
    here = World(lambda passing: 0.9 if passing > 0.5 else 0.1)
    with pytest.warns(UserWarning, match=r"known: 20\.0% .* keeps 10\.0%"):
        found = found_size(under, here.held, 0.2)
    assert found.kept_fraction == 0.1
    assert here.readings <= 1 + STEPS


@pytest.mark.parametrize(
    ("wanted", "steps", "error", "told"),
    [(0.0, 8, ConfigError, "between 0 and 1"), (1.0, 8, ConfigError, "found 1.0"), (0.2, 0, ConfigError, "1 step")],
)
def test_impossible_sizes_are_refused(wanted: float, steps: int, error: type[Exception], told: str) -> None:
    here = World(WORLDS["scores stay"])
    with pytest.raises(error, match=told):
        found_size(under, here.held, wanted, steps)
    assert here.readings == 0


def test_a_text_without_an_update_has_no_size() -> None:
    with pytest.raises(DataError, match="too short"):
        found_size(under, lambda policy: 1.0, 0.25)
