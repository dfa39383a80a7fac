"""Division of a budget over layers and heads, against slow versions, and its totals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from namm import Memory
from namm.errors import AttachError, ConfigError
from namm.policies import make_policy
from namm.policies.allocation import adaptive_kept, pyramid_budgets
from tests.namm.test_memory import random_qkv


@settings(max_examples=200, deadline=None)
@given(
    budget=st.integers(1, 300),
    certain=st.integers(0, 40),
    seen=st.integers(1, 900),
    depth=st.integers(1, 12),
    steepness=st.sampled_from([1.0, 2.0, 7.5, 20.0]),
)
def test_a_pyramid_falls_and_holds_what_even_layers_hold(
    budget: int, certain: int, seen: int, depth: int, steepness: float
) -> None:
    certain = min(certain, budget, seen)
    budgets = [
        int(pyramid_budgets(budget, torch.tensor([certain]), torch.tensor([seen]), layer, depth, steepness))
        for layer in range(depth)
    ]
    assert sum(budgets) == depth * budget
    assert budgets == sorted(budgets, reverse=True)
    assert min(budgets) >= certain
    if seen >= budget:
        assert max(budgets) <= seen


def test_a_pyramids_ends_are_the_papers() -> None:
    """Mean 128 beside a window of 8: 120 / 20 = 6 at the top, 2 * 120 - 6 = 234 at the bottom, equal steps between."""
    ends = [int(pyramid_budgets(128, torch.tensor([8]), torch.tensor([4096]), i, 5, 20.0)) - 8 for i in range(5)]
    assert ends == [234, 177, 120, 63, 6]
    short = [int(pyramid_budgets(128, torch.tensor([8]), torch.tensor([208]), i, 5, 20.0)) - 8 for i in range(5)]
    assert short == [200, 160, 120, 80, 40]  # no more than there are tokens


@settings(max_examples=50, deadline=None)
@given(
    heads=st.integers(1, 4),
    slots=st.integers(1, 20),
    budget=st.integers(1, 20),
    certain=st.integers(0, 3),
    safeguard=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_heads_compete_as_in_the_slow_version(
    heads: int, slots: int, budget: int, certain: int, safeguard: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, heads, slots, generator=generator)
    used = torch.randint(1, slots + 1, (heads,), generator=generator)
    valid = torch.arange(slots)[None, None] >= slots - used[None, :, None]
    certain = min(certain, budget, slots)
    scores[..., slots - certain :] = torch.inf
    scores = scores.masked_fill(~valid, -torch.inf)
    kept = adaptive_kept(scores, valid, torch.full((1, heads), budget), safeguard)[0]

    open_tokens = {
        head: sorted((float(scores[0, head, s]), s) for s in range(slots) if valid[0, head, s] and s < slots - certain)
        for head in range(heads)
    }
    sure = [min(certain, int(used[head])) for head in range(heads)]
    even = [budget - count for count in sure]
    everyone = sorted(((score, head) for head in range(heads) for score, _ in open_tokens[head]), reverse=True)
    winners = [head for _, head in everyone[: sum(even)]]
    expected = set()
    left = []
    for head in range(heads):
        share = safeguard * even[head] + (1 - safeguard) * winners.count(head)
        mine = open_tokens[head][::-1]
        expected |= {(head, slot) for _, slot in mine[: int(share + 1e-6)]}
        left += [(score, head, slot) for score, slot in mine[int(share + 1e-6) :]]
    rest = sum(even) - len(expected)
    expected |= {(head, slot) for _, head, slot in sorted(left, reverse=True)[:rest]}
    expected |= {(head, s) for head in range(heads) for s in range(slots - certain, slots) if valid[0, head, s]}
    assert {tuple(place) for place in kept.nonzero().tolist()} == expected
    assert int(kept.sum()) == min(int(used.sum()), sum(even) + sum(sure))


@pytest.mark.parametrize("name", ["h2o", "snapkv", "keydiff"])
@pytest.mark.parametrize(
    ("layers", "heads"), [("pyramid", "uniform"), ("uniform", "adaptive"), ("pyramid", "adaptive")]
)
def test_any_policy_divides_its_budget_and_the_model_holds_no_more(name: str, layers: str, heads: str) -> None:
    depth, budget = 4, 14
    policy = make_policy(
        name, interval=16, budget=budget, layer_allocation=layers, head_allocation=heads, steepness=4.0
    )
    memory = Memory(policy, depth=depth)
    for layer in range(depth):
        memory.attend(layer, *random_qkv(2, 3, 2, 96, 8, seed=layer))
    slots = memory.slots()
    assert slots.sum((1, 2)).tolist() == [depth * 3 * budget] * 2
    by_layer = slots.sum(2)[0].tolist()
    assert (by_layer == sorted(by_layer, reverse=True) and by_layer[0] > by_layer[-1]) == (layers == "pyramid")
    assert (slots.max(-1).values > slots.min(-1).values).any() == (heads == "adaptive")


def test_a_pyramid_needs_to_know_its_layers() -> None:
    memory = Memory(make_policy("pyramidkv", interval=16, budget=8))
    with pytest.raises(AttachError, match="depth=LAYERS"):
        memory.attend(0, *random_qkv(1, 1, 1, 32, 8, seed=0))
    knowing = Memory(memory.policy, depth=2)
    for part in knowing.split([1, 1]):
        part.attend(1, *random_qkv(1, 1, 1, 32, 8, seed=0))
    assert knowing.slots().flatten().tolist() == [4, 4]  # the window; 4 / 20 of a slot beside it are none
    for wrong in ({"steepness": 0.5}, {"safeguard": 1.5}):
        with pytest.raises(ConfigError):
            make_policy("h2o", budget=8, **wrong)
