"""Eager attention over a memory equals the slow memory, whatever the cuts, and rows may leave and repeat."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from namm import NAMM, Memory
from namm.layer import KeptTokens
from namm.policies import Policy, make_policy
from tests.namm.reference import reference_attend
from tests.namm.test_memory import kept_sets, random_qkv


def eager_policy(chunk: int) -> Policy:
    namm = NAMM(flat=torch.randn(4172, generator=torch.Generator().manual_seed(3)) * 0.3)
    return make_policy("namm:released", namm=namm, statistics="sequence", interval=32, eager_chunk=chunk)


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    group=st.integers(1, 2),
    chunk=st.sampled_from([8, 32]),
    cut=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_it_equals_the_slow_memory(lengths: list[int], group: int, chunk: int, cut: int, seed: int) -> None:
    policy, most = eager_policy(chunk), max(lengths)
    query, key, value = random_qkv(len(lengths), 2, group, most, 8, seed)
    padding = torch.arange(most)[None] >= most - torch.tensor(lengths)[:, None]
    memory = Memory(policy)
    pieces = [slice(0, min(cut, most)), slice(min(cut, most), most)]
    out = torch.cat(
        [
            memory.attend(0, query[:, :, some], key[:, :, some], value[:, :, some], padding[:, some])
            for some in pieces
            if some.stop > some.start
        ],
        dim=2,
    )
    for row, length in enumerate(lengths):
        mine = slice(most - length, most)
        expected, kept = reference_attend(policy, 0, query[row, :, mine], key[row, :, mine], value[row, :, mine], row)
        torch.testing.assert_close(out[row, :, mine], expected, atol=1e-5, rtol=1e-5)
        assert kept_sets(memory, 0, row) == kept
        assert not out[row, :, : most - length].any()


def test_rows_that_leave_or_repeat_within_an_interval_keep_what_they_observed() -> None:
    policy = eager_policy(8)
    query, key, value = random_qkv(3, 2, 2, 70, 8, seed=1)
    memory = Memory(policy)
    memory.attend(0, query[:, :, :50], key[:, :, :50], value[:, :, :50])
    assert memory.state_bytes() > memory.layers[0].cache.state_bytes(), "probabilities held are counted"
    rows = torch.tensor([2, 0, 2])
    memory.select_sequences(rows)
    out = memory.attend(0, query[rows, :, 50:], key[rows, :, 50:], value[rows, :, 50:])
    for row, source in enumerate(rows.tolist()):
        expected, kept = reference_attend(policy, 0, query[source], key[source], value[source], source)
        torch.testing.assert_close(out[row], expected[:, 50:], atol=1e-5, rtol=1e-5)
        assert kept_sets(memory, 0, row) == kept


@pytest.mark.parametrize("chunk", [None, 8])
def test_watchers_are_shown_every_update_of_every_memory_that_follows(chunk: int | None) -> None:
    namm = NAMM(flat=torch.randn(4172, generator=torch.Generator().manual_seed(3)) * 0.3)
    policy = make_policy("namm", namm=namm, interval=16, heads="equal", eager_chunk=chunk)
    memory = Memory(policy)
    told: list[KeptTokens] = []
    memory.watch(told.append)
    query, key, value = random_qkv(2, 2, 1, 40, 8, seed=2)
    for _ in range(2):
        memory.reset()
        memory.attend(5, query, key, value)
    assert [(now.layer, now.seen.tolist(), now.sequences.tolist()) for now in told] == [
        (5, [16, 16], [0, 1]), (5, [32, 32], [0, 1])
    ] * 2  # fmt: skip
    now = memory.kept_positions(5)
    kept = [[p for p in head if 0 <= p < 32] for head in now[1].tolist()]
    assert kept == [[p for p in head if p >= 0] for head in told[-1].positions[1].tolist()]


def test_watchers_are_shown_the_update_of_a_prompt_for_each_length_in_it() -> None:
    memory = Memory(make_policy("window", schedule="prompt", budget=5))
    told: list[KeptTokens] = []
    memory.watch(told.append)
    padding = torch.ones(3, 24, dtype=torch.bool)
    padding[1, :9] = False
    memory.attend(0, *random_qkv(3, 1, 1, 24, 8, seed=2), padding=padding)
    memory.attend(0, *random_qkv(3, 1, 1, 4, 8, seed=3))
    assert [(now.sequences.tolist(), now.seen.tolist()) for now in told] == [([1], [15]), ([0, 2], [24, 24])]
    assert [now.positions[0, 0, :5].tolist() for now in told] == [list(range(10, 15)), list(range(19, 24))]
