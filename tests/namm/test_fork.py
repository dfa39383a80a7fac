"""A memory that is forked goes two ways: each as if it had been read from the start, neither touching the other."""

from __future__ import annotations

import copy

import pytest
import torch

from namm import Memory
from namm.errors import AttachError
from namm.policies import POLICIES, make_policy
from tests.namm.test_memory import any_policy, kept_sets, random_qkv, telling

QUICK = ("full", "h2o", "snapkv", "fastgen", "namm")
"""One of every kind: keeps all, by attention, by the last queries, by kinds of tokens, by a network."""


@pytest.mark.parametrize("store", ["packed", pytest.param("padded", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in sorted(POLICIES)]
)
def test_a_prefix_read_once_is_as_good_as_one_read_for_each_question(name: str, store: str) -> None:
    """Bit for bit, the questions asked in turn, uneven rows in mid-interval, heads of uneven length."""
    policy = any_policy(name, 16)
    prefix = random_qkv(2, 2, 2, 56, 8, seed=1)
    padding = torch.arange(56)[None] >= torch.tensor([[0], [9]])
    questions = [random_qkv(2, 2, 2, 30, 8, seed=seed) for seed in (2, 3)]

    def begun() -> Memory:
        memory = telling(Memory(policy, depth=1, store=store), 2, 2)
        memory.attend(0, *prefix, padding=padding)
        return memory

    trunk = begun()
    held, report = trunk.kept_positions(0), trunk.report()
    forks = [trunk.fork(), copy.deepcopy(trunk)]
    for fork, question in zip(forks, questions, strict=True):
        alone = begun()
        for at in (slice(0, 11), slice(11, 30)):
            piece = [tensor[:, :, at] for tensor in question]
            assert torch.equal(fork.attend(0, *piece), alone.attend(0, *piece))
        assert [kept_sets(fork, 0, row) for row in range(2)] == [kept_sets(alone, 0, row) for row in range(2)]
        assert fork.report() == alone.report()
        assert fork.policy is policy
    assert torch.equal(trunk.kept_positions(0), held)
    assert trunk.report() == report
    alone = begun()
    assert torch.equal(trunk.attend(0, *questions[0]), alone.attend(0, *questions[0]))


def test_released_attention_is_forked_with_what_it_has_observed() -> None:
    policy = make_policy(
        "namm", namm=any_policy("namm", 16).namm, statistics="sequence", interval=16, heads="equal", eager_chunk=8
    )
    trunk, alone = Memory(policy), Memory(policy)
    for memory in (trunk, alone):
        memory.attend(0, *random_qkv(1, 2, 1, 28, 8, seed=1))
    fork = copy.copy(trunk)
    for seed in (2, 3):
        trunk.attend(0, *random_qkv(1, 2, 1, 7, 8, seed=9))
        more = random_qkv(1, 2, 1, 15, 8, seed=seed)
        assert torch.equal(fork.attend(0, *more), alone.attend(0, *more))


def test_a_fork_keeps_what_it_was_told_and_shares_what_does_not_change() -> None:
    policy = make_policy("fastgen", interval=16, budget=6, special_ids=(3,), punctuation_ids=(4,))
    trunk = Memory(policy)
    trunk.tell_tokens(torch.arange(40)[None] % 7)
    trunk.attend(0, *random_qkv(1, 1, 1, 40, 8, seed=1))
    fork = trunk.fork()
    assert fork.layers[0].cache.keys.data_ptr() == trunk.layers[0].cache.keys.data_ptr()
    with pytest.raises(AttachError, match="those of 48 positions of row 0, found 40"):
        trunk.attend(0, *random_qkv(1, 1, 1, 8, 8, seed=2))
    fork.tell_tokens(torch.arange(8)[None])
    fork.attend(0, *random_qkv(1, 1, 1, 8, 8, seed=2))
    assert fork.seen.tolist() == [48]
    fork.watch(lambda kept: None)
    assert not trunk.watchers


def test_a_batch_that_is_split_is_forked_part_by_part() -> None:
    memory = Memory(any_policy("window", 16))
    parts = memory.split([1, 2])
    for part, rows in zip(parts, (1, 2), strict=True):
        part.attend(0, *random_qkv(rows, 1, 1, 20, 8, seed=rows))
    with pytest.raises(AttachError, match="split into 2"):
        memory.fork()
    fork = parts[1].fork()
    fork.attend(0, *random_qkv(2, 1, 1, 20, 8, seed=5))
    assert memory.seen.tolist() == [20, 20, 20]
    assert fork.layers[0].contents.sequences.tolist() == [1, 2]
    assert fork.report().peak_cache_bytes < memory.report().peak_cache_bytes * 3
    fork.reset()
    assert memory.seen.tolist() == [20, 20, 20]
