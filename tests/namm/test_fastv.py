"""FastV: one early layer decides for all above, at every update of a call, and text stays."""

from __future__ import annotations

import itertools

import torch

from namm import Memory
from namm.grades import Grades
from namm.policies import make_policy
from tests.namm.test_memory import kept_sets, random_qkv


def read(budget: int, layers: int, cuts: list[int], text: slice = slice(0, 0)) -> Memory:
    memory = Memory(make_policy("fastv", interval=16, budget=budget, layers=layers), depth=4)
    grades = torch.zeros(2, 64)
    grades[:, text] = torch.inf
    memory.tell_grades(Grades({"pictures": grades}))
    qkv = [random_qkv(2, 2, 2, 64, 8, seed=layer) for layer in range(4)]
    padding = torch.arange(64)[None] >= torch.tensor([[0], [9]])
    for start, stop in itertools.pairwise(cuts):
        for layer in range(4):
            piece = [tensor[:, :, start:stop] for tensor in qkv[layer]]
            mine = padding[:, start:stop]
            memory.attend(layer, *piece, padding=None if mine.all() else mine)
    return memory


def test_the_layers_above_hold_what_the_deciding_one_holds() -> None:
    memory = read(10, 2, [0, 64])
    for row in range(2):
        decided = kept_sets(memory, 1, row)
        assert decided[0] == decided[1]
        assert [kept_sets(memory, layer, row) for layer in (2, 3)] == [decided] * 2
        assert kept_sets(memory, 0, row) != decided
    alone = read(10, 1, [0, 64])
    assert [kept_sets(alone, layer, 0) for layer in (1, 2, 3)] == [kept_sets(alone, 0, 0)] * 3


def test_cuts_of_calls_change_nothing_and_text_stays() -> None:
    whole, cut = read(14, 2, [0, 64], slice(3, 8)), read(14, 2, [0, 21, 40, 64], slice(3, 8))
    for layer in range(4):
        assert kept_sets(whole, layer, 0) == kept_sets(cut, layer, 0)
        assert set(range(3, 8)) <= set(kept_sets(whole, layer, 0)[0])


def test_the_mean_over_heads_of_the_last_query_decides() -> None:
    """Written out slowly for the first update of one sequence."""
    memory = Memory(make_policy("fastv", interval=16, budget=6, layers=1, protected_last=0))
    memory.tell_grades(Grades({"pictures": torch.zeros(1, 16)}))
    query, key, value = random_qkv(1, 2, 2, 16, 8, seed=5)
    memory.attend(0, query, key, value)
    logits = torch.einsum("hgd,hnd->hgn", query[0, :, -1].view(2, 2, 8), key[0]) * 8**-0.5
    attention = logits.softmax(-1).mean((0, 1))
    assert kept_sets(memory, 0, 0)[0] == sorted(attention.topk(6).indices.tolist())
