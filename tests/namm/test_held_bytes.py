"""What is forgotten is freed: after every update a memory allocates what its slots take, and little beside it."""

from __future__ import annotations

import itertools

import pytest
import torch

from namm import Memory
from namm.attention import held as held_module
from namm.layer import LayerMemory
from namm.policies import POLICIES, make_policy
from namm.rules import AttentionRule, Local
from namm.tokens import LEAST_DROPPED
from tests.namm.test_memory import any_policy, random_qkv, telling

WIDTH, KV_HEADS, GROUP = 8, 2, 2
SPARE = 64
"""Slots of room for unjudged tokens, at most, beyond those of the longest sequence (or a quarter more)."""


def allocated(layer: LayerMemory) -> int:
    """Bytes of every storage behind the layer's keys and values, each once."""
    cache = layer.cache
    tensors = [cache.keys, cache.values, cache.tail_keys, cache.tail_values]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def bound(layer: LayerMemory, store: str) -> float:
    """The promise: kept slots, and for sequences in mid-interval a rectangle as long as the longest and its spare.

    A padded store may take a third more, and keeps room for its short intervals.
    """
    cache = layer.cache
    heads, longest = cache.batch * cache.kv_heads, int(cache.tail_lengths.max())
    room = longest + max(longest // 4, SPARE) if longest else 0
    if store == "padded":  # a rectangle keeps the room that uneven rows of one call may need: two intervals of 64
        room = 2 * SPARE
    return (int(cache.lengths.sum()) + heads * room) * 2 * WIDTH * 4 * (4 / 3 if store == "padded" else 1)


@pytest.mark.parametrize(
    ("reach", "store"), [(None, "packed"), pytest.param(None, "padded", marks=pytest.mark.slow), (40, "packed")]
)
@pytest.mark.parametrize("schedule", ["interval", "prompt"])
@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"full"}))
def test_held_bytes_are_those_of_the_slots_under_every_policy(
    name: str, schedule: str, reach: int | None, store: str
) -> None:
    """Also where sequences of a batch are judged at different times, and 64 tokens after a prompt."""
    lengths, tokens = torch.tensor([192, 48, 112]), 192 + 64
    memory = Memory(any_policy(name, 64, schedule=schedule), depth=1, store=store)
    telling(memory, 3, KV_HEADS, tokens)
    query, key, value = random_qkv(3, KV_HEADS, GROUP, tokens, WIDTH, seed=3)
    padding = torch.arange(192)[None] >= 192 - lengths[:, None]
    rule = AttentionRule(local=None if reach is None else Local(reach))
    for start, stop in itertools.pairwise([0, 192, 193, 210, tokens]):
        piece = (tensor[:, :, start:stop] for tensor in (query, key, value))
        memory.attend(0, *piece, padding=padding if start == 0 else None, rule=rule)
        layer = memory.layers[0]
        assert memory.report().cache_bytes == allocated(layer) <= bound(layer, store)
        if schedule == "prompt" and start == 0:
            slots = int(layer.cache.slots().sum())
            assert allocated(layer) == slots * 2 * WIDTH * 4, "nothing but the slots"
            assert layer.contents.interval.queries.numel() == layer.contents.interval.log_sums.numel() == 0
        assert layer.contents.interval.queries.shape[2] <= layer.cache.tail_keys.shape[2]
    assert memory.report().evicted > 0
    before = memory.cache_bytes()
    memory.select_sequences(torch.tensor([1]))
    assert memory.cache_bytes() == allocated(memory.layers[0]) < before
    if store == "packed":
        assert allocated(memory.layers[0]) <= bound(memory.layers[0], store)


def test_a_compressed_prompt_takes_the_bytes_of_its_budget() -> None:
    """The report that found it: 2,048 tokens at 200 slots took 1,150,976 bytes in place of 102,400."""
    memory = Memory(make_policy("h2o", schedule="prompt", budget=200))
    memory.attend(0, *random_qkv(1, 2, 2, 2048, 32, seed=1))
    assert memory.report().cache_bytes == 2 * 200 * 2 * 32 * 4
    assert memory.report().peak_cache_bytes == 2 * 2048 * 2 * 32 * 4
    for _ in range(64):
        memory.attend(0, *random_qkv(1, 2, 2, 1, 32, seed=2))
    assert memory.report().cache_bytes == 2 * (200 + 64) * 2 * 32 * 4


def test_queries_of_tokens_that_wait_for_their_update_take_no_more_room_than_these() -> None:
    """One sequence of two has been judged: what the other holds is short, and so is what is buffered for it."""
    memory = Memory(make_policy("h2o", interval=512, budget=16))
    padding = torch.ones(2, 512, dtype=torch.bool)
    padding[1, :509] = False
    memory.attend(0, *random_qkv(2, 1, 1, 512, WIDTH, seed=4), padding=padding)
    layer = memory.layers[0]
    assert layer.cache.tail_lengths.tolist() == [0, 3]
    assert (
        layer.cache.tail_keys.shape[2]
        == layer.contents.interval.queries.shape[2]
        == layer.contents.interval.log_sums.shape[2]
        == 3 + SPARE
    )


def test_token_ids_of_an_endless_stream_take_bounded_room() -> None:
    """And those of held tokens are never dropped, whatever becomes of rows."""
    generator = torch.Generator().manual_seed(1)
    policy = make_policy("fastgen", interval=80, budget=12, special_ids=(3,), punctuation_ids=(4, 5))
    memory, most = Memory(policy), 0
    ids = torch.randint(0, 9, (2, 3200), generator=generator)
    for call, start in enumerate(range(0, 3200, 80)):
        rows = slice(0, memory.seen.shape[0]) if call else slice(0, 2)
        piece = ids[rows, start : start + 80]
        memory.tell_tokens(piece)
        memory.attend(0, *random_qkv(piece.shape[0], 1, 1, 80, WIDTH, seed=call))
        most = max(most, memory.told.tokens.nbytes)
        if call == 25:
            memory.select_sequences(torch.tensor([1, 0]))
            ids = ids.flip(0)
    assert most < 2 * 16 * (LEAST_DROPPED + 200)
    assert (
        memory.state_bytes()
        == memory.layers[0].contents.state_bytes() + memory.told.tokens.nbytes
        == memory.report().state_bytes
    )
    for row in range(2):
        positions = memory.kept_positions(0)[[row]]
        told = memory.told.tokens.at(torch.tensor([row]), positions)
        assert torch.equal(told, torch.where(positions < 0, -1, ids[row][positions.clamp_min(0)]))


def test_masks_that_outlive_a_call_are_small() -> None:
    """They are kept for the next layers, in no report and by no memory."""
    held_module._kept_causal.cache_clear()
    memory = Memory(make_policy("full"))
    memory.attend(0, *random_qkv(1, 1, 1, 4000, WIDTH, seed=1))
    for _ in range(3):
        memory.attend(0, *random_qkv(1, 1, 1, 8, WIDTH, seed=2))
    assert held_module._kept_causal.cache_info().currsize == 0
    memory.reset()
    for _ in range(2):
        memory.attend(0, *random_qkv(1, 1, 1, 8, WIDTH, seed=2))
    assert held_module._kept_causal.cache_info().currsize == 2
