"""A policy that is told what tokens are worth: whole frames go, rows keep their own grades, and nobody guesses them."""

from __future__ import annotations

import pytest
import torch

from namm import Memory
from namm.errors import AttachError
from namm.grades import Grades
from namm.policies import make_policy
from tests.namm.test_memory import kept_sets, random_qkv

FRAMES = torch.tensor([[0.1, 0.9, 0.5, 0.3, 0.9, 0.2, 0.8, 0.7]]).repeat_interleave(4, dim=1)
"""Eight frames of four tokens."""


def graded(batch: int, budget: int = 14) -> Memory:
    return Memory(make_policy("relevance", interval=16, budget=budget, protected_last=1))


def test_whole_frames_go_the_worst_first_and_tokens_without_a_grade_stay() -> None:
    memory = graded(1)
    grades = FRAMES.clone()
    grades[0, :4] = torch.inf  # the text before the video
    memory.tell_grades(Grades({"relevance": grades}))
    memory.attend(0, *random_qkv(1, 2, 1, 32, 8, seed=1))
    text, best, other, newest = range(4), range(4, 8), range(16, 20), [31]
    cut = [27]  # the frame at the end of the budget: its newest token
    assert kept_sets(memory, 0, 0) == [[*text, *best, *other, *cut, *newest]] * 2
    memory.attend(0, *random_qkv(1, 2, 1, 16, 8, seed=2))  # behind what was graded: text again
    assert set(kept_sets(memory, 0, 0)[0]) >= set(range(36, 48))


def test_rows_keep_their_grades_when_they_move_and_fork() -> None:
    grades = torch.stack([torch.arange(32.0), -torch.arange(32.0)])
    memory = graded(2, budget=5)
    memory.tell_grades(Grades({"relevance": grades}))
    qkv = random_qkv(2, 1, 1, 32, 8, seed=1)
    memory.attend(0, *(t[:, :, :8] for t in qkv))
    memory.select_sequences(torch.tensor([1, 0, 1]))
    fork = memory.fork()
    for one in (memory, fork):
        one.attend(0, *(t[torch.tensor([1, 0, 1])][:, :, 8:] for t in qkv))
        oldest, newest = [0, 1, 2, 3, 31], [27, 28, 29, 30, 31]
        assert [kept_sets(one, 0, row)[0] for row in range(3)] == [oldest, newest, oldest]
    memory.reset()  # told ahead, so that a batch that begins anew has the order in which it was told
    memory.attend(0, *qkv)
    assert kept_sets(memory, 0, 0)[0] == newest


def test_grades_that_nobody_told_are_missed() -> None:
    qkv = random_qkv(2, 1, 1, 16, 8, seed=1)
    with pytest.raises(AttachError, match="tell_grades"):
        graded(2).attend(0, *qkv)
    for told in ({"redundancy": torch.zeros(2, 16)}, {"relevance": torch.zeros(1, 16)}):
        memory = graded(2)
        memory.tell_grades(Grades(told))
        with pytest.raises(AttachError, match="best by 'relevance'"):
            memory.attend(0, *qkv)
