"""Streams several times as long as anything was made for: what is forgotten must not count any more."""

from __future__ import annotations

import warnings

import pytest
import torch

from namm import NAMM, Memory, NAMMConfig
from namm.policies import Policy, TokenView, make_policy
from tests.namm.reference import reference_attend
from tests.namm.test_memory import kept_sets, random_qkv

MAX_AGE = 96


def policy_of(namm: NAMM, **options: object) -> Policy:
    return make_policy("namm", namm=namm, statistics="sequence", interval=32, **options)


def drawn(seed: int, **config: object) -> NAMM:
    generator = torch.Generator().manual_seed(seed)
    return NAMM(NAMMConfig(**config), torch.randn(4172, generator=generator) * 0.3)


@pytest.mark.parametrize(("heads", "store"), [("ragged", "packed"), ("ragged", "padded"), ("equal", "packed")])
def test_a_stream_of_five_times_the_largest_age_keeps_what_a_slow_memory_keeps(heads: str, store: str) -> None:
    """The slow one has no limit and is told ages that end; heads hold unequal numbers, so that slots are unused."""
    tokens = 5 * MAX_AGE
    policy = policy_of(drawn(3, max_age=MAX_AGE), heads=heads, protected_first=1)
    unlimited = drawn(3, max_age=10**9)
    real = unlimited.token_features
    unlimited.token_features = lambda spectrum, age, *rest: real(spectrum, age.clamp_max(MAX_AGE), *rest)  # type: ignore[method-assign]
    query, key, value = random_qkv(2, 3, 1, tokens, 8, seed=6)
    memory = Memory(policy, store=store)
    with pytest.warns(UserWarning, match=f"up to {MAX_AGE} tokens") as said:
        pieces = [
            memory.attend(0, *(t[:, :, at : at + 40] for t in (query, key, value))) for at in range(0, tokens, 40)
        ]
    assert len(said) == 1, "the oldest token is held from the first limit on, and that is said once"
    out = torch.cat(pieces, 2)
    for row in range(2):
        wanted, kept = reference_attend(
            policy_of(unlimited, heads=heads, protected_first=1), 0, query[row], key[row], value[row], row
        )
        torch.testing.assert_close(out[row], wanted, atol=3e-5, rtol=1e-4)
        assert kept_sets(memory, 0, row) == kept
        assert all(head[0] == 0 for head in kept)
    if heads == "ragged":
        assert len(memory.slots().unique()) > 1


@pytest.mark.parametrize("max_age", [1024, pytest.param(32_768, marks=pytest.mark.slow)])
def test_a_ragged_namm_reads_three_times_its_limit_without_a_word(max_age: int, request: pytest.FixtureRequest) -> None:
    """It holds young tokens only; it stopped because slots that nothing is in had the age of the whole stream."""
    if max_age > 1024:
        request.getfixturevalue("_shapes_unchecked")
    tokens = 3 * max_age + 64
    policy = make_policy("namm", namm=drawn(3, max_age=max_age), statistics="sequence", interval=64)
    young = policy.score
    ages = []

    def score(view: TokenView) -> torch.Tensor:
        """Lets nothing grow old: heads keep what they score high among their newest tokens."""
        ages.append(int(view.age.max()))
        own = young(view)
        limit = 50 + 40 * torch.arange(own.shape[1])[:, None]
        return own.abs().masked_fill(view.age > limit, -1.0)

    policy.score = score
    memory = Memory(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in range(0, tokens, 8192):
            memory.attend(0, *random_qkv(1, 2, 1, min(8192, tokens - start), 4, seed=start))
    assert memory.seen.tolist() == [tokens]
    assert len(memory.slots().unique()) > 1, "one head has slots that nothing is in"
    held = memory.kept_positions(0)
    assert max(ages) < 200
    assert int(held[held >= 0].min()) > tokens - 200


@pytest.mark.parametrize("name", ["window", "oldest", "h2o_age"])
def test_ages_of_unused_slots_are_zero_for_every_policy(name: str) -> None:
    policy = make_policy(name, interval=16, head_budgets=((9, 3),))
    views: list[TokenView] = []
    score = policy.score
    policy.score = lambda view: views.append(view) or score(view)
    Memory(policy).attend(0, *random_qkv(1, 2, 1, 80, 8, seed=2))
    assert not views[-1].valid.all()
    assert (views[-1].age[~views[-1].valid] == 0).all()
    assert torch.equal(views[-1].age[views[-1].valid], 79 - views[-1].positions[views[-1].valid])
