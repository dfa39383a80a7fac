"""Policies that judge by position alone, against the positions that must survive."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from namm import Memory
from namm.errors import ConfigError
from namm.policies import POLICIES, make_policy


@pytest.mark.parametrize(
    ("name", "survivors"),
    [
        ("window", list(range(54, 64))),
        ("sink_window", [0, 1, 2, 3, *range(58, 64)]),
        ("oldest", [*range(7), 61, 62, 63]),
    ],
)
def test_survivors_of_the_second_update(name: str, survivors: list[int]) -> None:
    """The three newest are protected; what was protected at the first update is judged like any other at the second."""
    memory = Memory(make_policy(name, interval=32, budget=10, protected_last=3))
    memory.attend(0, *torch.randn(3, 1, 2, 64, 8, generator=torch.Generator().manual_seed(0)))
    assert memory.kept_positions(0)[0].tolist() == [survivors, survivors]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_has_its_line_in_the_docs(name: str) -> None:
    table = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    assert table.count(f"\n| `{name}` | ") == 1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("snapkv", {"window": 2.5}, "a whole number or null in window"),
        ("snapkv", {"window": True}, "found true"),
        ("random", {"seed": "3"}, "a whole number in seed"),
        ("compactor", {"blend": float("nan")}, "a finite number or null in blend"),
        ("graded", {"by": 3}, "text in by"),
        ("adakv", {"safeguard": "0.2"}, "safeguard must be a number"),
        ("h2o", {"threshold": True}, "threshold must be a number"),
        ("namm", {}, "needs the option 'namm'"),
    ],
)
def test_an_option_of_another_kind_than_a_policy_says_is_refused(name: str, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_policy(name, interval=64, budget=32, **options)
