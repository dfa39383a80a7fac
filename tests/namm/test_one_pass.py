"""One pass over a whole interval gives what fused attention and recomputed columns give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from namm import NAMM, Memory, layer, one_pass
from namm.policies import POLICIES, Policy, Selection
from namm.policies.base import Places
from namm.policies.h2o import H2O
from namm.policies.namm import NAMMPolicy
from tests.namm.reference import reference_attend
from tests.namm.test_memory import any_policy, kept_sets, random_qkv

IN_PIECES = sorted(name for name in POLICIES if any_policy(name, 32).observes_in_pieces)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Short heads go through one pass, too; whether each interval did."""
    found: list[bool] = []
    asks: Callable[..., bool] = one_pass.takes_whole

    def told(*arguments: object) -> bool:
        found.append(asks(*arguments))
        return found[-1]

    monkeypatch.setattr(one_pass, "FEWEST_ELEMENTS", {torch.float32: 0, torch.bfloat16: 0})
    monkeypatch.setattr(layer, "takes_whole", told)
    return found


def read(policy: Policy, qkv: tuple[Tensor, ...], calls: int = 1) -> tuple[Tensor, Memory]:
    memory = Memory(policy, depth=1)
    parts = zip(*(tensor.chunk(calls, dim=2) for tensor in qkv), strict=True)
    with torch.inference_mode():
        return torch.cat([memory.attend(0, *part) for part in parts], dim=2), memory


def test_which_policies_are_shown_intervals_in_pieces() -> None:
    assert IN_PIECES == ["h2o", "h2o_age", "namm"]


@pytest.mark.parametrize("name", IN_PIECES)
def test_an_interval_shown_in_pieces_leaves_the_state_it_leaves_at_once(name: str) -> None:
    """The promise that one pass relies on, for uneven pieces and tokens that are there from the second one on."""
    policy, generator = any_policy(name, 96), torch.Generator().manual_seed(1)
    columns = torch.rand(2, 3, 40, 96, generator=generator)
    columns[:, :, 30:, :32] = 0.0  # not there yet
    shapes = policy.state_shapes()
    state = {key: torch.rand(2, 3, 40, *shape, generator=generator) for key, shape in shapes.items()}
    for tensor in state.values():
        tensor[:, :, 30:] = 0.0
    positions, asking = torch.arange(40).expand(2, 3, -1), torch.arange(60, 156).expand(2, -1)

    def shown(state: dict[str, Tensor], slots: int, first: int, last: int) -> dict[str, Tensor]:
        where = Places(positions[:, :, :slots], asking[:, first:last], torch.full((2, 3), 30), asking[:, 0])
        own = {key: tensor[:, :, :slots] for key, tensor in state.items()}
        return policy.observe(columns[:, :, :slots, first:last], own, where)

    expected = shown(state, 40, 0, 96)
    first = shown(state, 30, 0, 32)
    joined = {key: torch.cat([first[key], state[key][:, :, 30:]], dim=2) for key in state}
    found = shown(shown(joined, 40, 32, 48), 40, 48, 96)
    for key in shapes:
        torch.testing.assert_close(found[key], expected[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("heads", ["ragged", "equal"])
@pytest.mark.parametrize("name", IN_PIECES)
@pytest.mark.parametrize(("kv_heads", "group", "interval"), [(3, 1, 32), (1, 4, 96), (2, 3, 160)])
def test_one_pass_equals_the_slow_memory(
    name: str, heads: str, kv_heads: int, group: int, interval: int, taken: list[bool]
) -> None:
    """Whole intervals in one call, some more tokens behind them; intervals shorter and longer than a block."""
    policy = any_policy(name, interval, heads=heads)
    # tokens before heads in memory, as models' projections leave them
    qkv = tuple(
        tensor.transpose(1, 2).contiguous().transpose(1, 2)
        for tensor in random_qkv(2, kv_heads, group, 3 * interval + 5, 8, seed=interval)
    )
    out, memory = read(policy, qkv)
    assert taken == [True] * 3
    for row in range(2):
        expected, kept = reference_attend(policy, 0, *(tensor[row] for tensor in qkv), row, 1)
        torch.testing.assert_close(out[row], expected, atol=3e-5, rtol=1e-4)
        assert kept_sets(memory, 0, row) == kept


@pytest.mark.parametrize("name", IN_PIECES)
def test_heads_that_are_taken_together_and_apart_are_alike(
    name: str, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many fit a block, and where some head keeps nothing beside others that do."""
    policy = any_policy(name, 32)
    qkv = random_qkv(2, 4, 2, 128, 8, seed=3)
    together, _ = read(policy, qkv)
    monkeypatch.setattr(one_pass, "BLOCK_ELEMENTS", 1)
    apart, _ = read(policy, qkv)
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)
    assert taken == [True] * 8


def test_half_precision_stays_near_fp32(taken: list[bool]) -> None:
    policy = any_policy("h2o", 64, budget=150)
    qkv = random_qkv(1, 2, 2, 256, 64, seed=5)
    exact, _ = read(policy, qkv)
    half, memory = read(policy, tuple(tensor.bfloat16() for tensor in qkv))
    assert taken == [True] * 8
    assert half.dtype == torch.bfloat16
    assert memory.layers[0].cache.state["mass"].dtype == torch.float32
    assert float((half.float() - exact).abs().mean()) < 0.02  # of values of size 1


def test_what_one_pass_cannot_do_goes_the_other_way(taken: list[bool]) -> None:
    """Calls of half an interval, policies that need all of it at once or its queries, gradients."""
    qkv = random_qkv(1, 2, 2, 128, 8, seed=7)
    policy = any_policy("namm", 32)
    whole, _ = read(policy, qkv)
    assert taken == [True] * 4
    halves, _ = read(policy, qkv, calls=8)
    assert len(taken) == 4  # not even asked
    torch.testing.assert_close(halves, whole, atol=3e-5, rtol=1e-4)
    for name in ("snapkv", "keydiff", "scissorhands"):
        read(any_policy(name, 32), qkv)
    learned = tuple(tensor.clone().requires_grad_() for tensor in qkv)
    Memory(policy, depth=1).attend(0, *learned).sum().backward()
    assert learned[2].grad is not None
    assert not any(taken[4:])


def test_a_promise_is_not_inherited_by_who_observes_otherwise(taken: list[bool]) -> None:
    """Or its state would be wrong without a word; nor is one kept to that is shown the last queries alone."""

    class Largest(H2O):
        name = "largest"

        def observe(self, columns: Tensor, state: dict[str, Tensor], places: Places) -> dict[str, Tensor]:
            assert columns.shape[3] == 32
            return {"mass": columns.mean(-1)}

    class Last(H2O):
        name = "last"
        observed_queries = 4

    class Other(NAMMPolicy):
        name = "other"

        def observe(self, columns: Tensor, state: dict[str, Tensor], places: Places | None = None) -> dict[str, Tensor]:
            assert columns.shape[3] == 32
            return super().observe(columns, state, places)

    selection = Selection(interval=32, budget=40)
    for policy in (Largest(selection), Last(selection), Other(selection, NAMM(), "sequence")):
        read(policy, random_qkv(1, 2, 2, 96, 8, seed=9))
    assert taken == [False] * 9


def test_a_fork_is_not_changed_by_what_the_other_observes(taken: list[bool]) -> None:
    """State is shared between forks until one of them observes."""
    policy = any_policy("h2o", 32)
    first, second = (random_qkv(1, 2, 2, 64, 8, seed=seed) for seed in (1, 2))
    with torch.inference_mode():
        memory, alone = Memory(policy, depth=1), Memory(policy, depth=1)
        for each in (memory, alone):
            each.attend(0, *first)
        other = memory.fork()
        other.attend(0, *second)
        torch.testing.assert_close(memory.attend(0, *first), alone.attend(0, *first), atol=0, rtol=0)
    assert all(taken)
