"""The padded store: what the packed one keeps and gives, in one rectangle, where that is not much larger."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from namm import Memory
from namm.cache import LayerCache
from namm.errors import UnknownNameError
from namm.padded import MOST_FILLING, PaddedStore
from namm.policies import Policy, Selection, TokenView, make_policy
from tests.namm.test_memory import any_policy, random_qkv


def both(policy_name: str, interval: int = 48) -> tuple[Memory, Memory]:
    policy = any_policy(policy_name, interval)
    return Memory(policy, depth=1, store="packed"), Memory(policy, depth=1, store="padded")


def cache_of(memory: Memory) -> LayerCache:
    return memory.layers[0].cache


def storage_bytes(cache: LayerCache) -> int:
    """Of every storage that keys and values lie in, views counted once."""
    tensors = [cache.keys, cache.values, cache.tail_keys, cache.tail_values]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("name", ["namm", "h2o", "random", "window"])
def test_steps_of_a_few_tokens_are_attended_alike_while_rows_leave_and_repeat(name: str) -> None:
    """As a batch of environments: three tokens a step, updates in the middle of calls, episodes that end."""
    packed, padded = both(name)
    rows = torch.arange(6)
    used = 0
    for step in range(80):
        qkv = [t[rows] for t in random_qkv(6, 2, 2, 3, 16, seed=step)]
        expected, found = (memory.attend(0, *qkv) for memory in (packed, padded))
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
        cache = cache_of(padded)
        used += isinstance(cache.store, PaddedStore)
        assert torch.equal(padded.kept_positions(0), packed.kept_positions(0))
        assert cache.cache_bytes() == storage_bytes(cache)
        if step in (30, 45):
            stay = torch.tensor([0, 2, 2, 4, 1] if step == 30 else [3, 0])
            rows = rows[stay]
            for memory in (packed, padded):
                memory.select_sequences(stay)
    assert used == 65  # always, once there is something kept
    assert padded.report().peak_slots == packed.report().peak_slots
    assert padded.report().evicted == packed.report().evicted > 0


def test_a_head_that_keeps_far_more_than_others_unmakes_the_rectangle_and_frees_it() -> None:
    """Filling costs a third at most; afterwards nothing of the rectangle stays allocated behind a view."""

    class Told(Policy):
        """Keeps as many of each head's newest as it is told."""

        name = "told"
        lengths = torch.tensor([4, 4, 4, 4])

        def score(self, view: TokenView) -> Tensor:
            return (view.age < self.lengths[:, None]).float()

    policy = Told(Selection(interval=16, protected_last=0, threshold=0.5))
    packed, padded = Memory(policy), Memory(policy, store="padded")
    seen = []
    for step, longest in enumerate([4, 60, 60, 60, 5]):
        policy.lengths[0] = longest
        qkv = random_qkv(2, 4, 1, 18, 8, seed=step)  # goes on behind its update, so the tail stays
        expected, found = (memory.attend(0, *qkv) for memory in (packed, padded))
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
        cache = cache_of(padded)
        assert cache.cache_bytes() == storage_bytes(cache)
        packed_slots = int(cache.lengths.sum()) + cache.lengths.numel() * 16
        assert cache.cache_bytes() <= MOST_FILLING * packed_slots * 2 * 8 * 4
        seen.append(isinstance(cache.store, PaddedStore))
    assert seen == [True, False, False, False, True]


def test_a_sequence_that_broke_does_not_touch_the_others() -> None:
    """Filling is masked, but a masked NaN is still NaN."""
    policy = any_policy("namm", 16)
    memory, alone = Memory(policy, store="padded"), Memory(policy, store="padded")
    query, key, value = random_qkv(2, 2, 1, 40, 8, seed=1)
    value[1] = key[1] = torch.nan
    used = False
    for at in range(0, 40, 4):
        step = [t[:, :, at : at + 4] for t in (query, key, value)]
        out = memory.attend(0, *step)
        expected = alone.attend(0, *(t[:1] for t in step))
        torch.testing.assert_close(out[:1], expected, atol=1e-6, rtol=1e-5)
        used = used or (isinstance(cache_of(memory).store, PaddedStore) and len(cache_of(memory).lengths.unique()) > 1)
    assert used


@pytest.mark.parametrize(("interval", "width", "padded"), [(64, 8, True), (80, 8, False), (64, 1024, False)])
def test_long_intervals_and_wide_heads_stay_packed(interval: int, width: int, padded: bool) -> None:
    memory = Memory(any_policy("window", interval, budget=20), store="padded")
    memory.attend(0, *random_qkv(2, 1, 1, interval + 1, width, seed=1))
    assert isinstance(cache_of(memory).store, PaddedStore) == padded


def test_half_precision_and_values_of_another_width_are_held_alike() -> None:
    packed, padded = both("namm", 16)
    for step in range(20):
        query, key, value = (t.bfloat16() for t in random_qkv(3, 1, 2, 4, 16, seed=step))
        expected, found = (memory.attend(0, query, key, value[..., :8]) for memory in (packed, padded))
        torch.testing.assert_close(found.float(), expected.float(), atol=3e-2, rtol=3e-2)
    assert isinstance(cache_of(padded).store, PaddedStore)
    assert cache_of(padded).keys.dtype == torch.bfloat16


def test_parts_of_a_batch_hold_as_the_whole_is_told_to() -> None:
    memory = Memory(any_policy("window", 16), store="padded")
    assert [part.store for part in memory.split([2, 3])] == ["padded", "padded"]
    with pytest.raises(UnknownNameError, match="Did you mean 'padded'"):
        Memory(any_policy("window", 16), store="paded")


def test_nothing_kept_at_all_is_a_rectangle_of_the_interval_alone() -> None:
    def attend(memory: Memory) -> list[Tensor]:
        return [memory.attend(0, *random_qkv(2, 1, 1, 5, 8, seed=step)) for step in range(8)]

    policy = make_policy("window", interval=16, threshold=1e9, protected_last=0)
    for expected, found in zip(attend(Memory(policy)), attend(Memory(policy, store="padded")), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
