"""Sinks that count as near: the memory against a cache of raw keys that is numbered anew at every token."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from namm import Memory
from namm.errors import AttachError, ConfigError
from namm.policies import make_policy
from namm.rotation import UNTURNED, Rotation
from tests.namm.test_memory import kept_sets, random_qkv

WIDTH, SINKS, INTERVAL = 8, 4, 16
ROTATIONS = {
    "halves": Rotation(100.0 ** -torch.linspace(0, 1, WIDTH // 2)),
    "neighbours, a part": Rotation(100.0 ** -torch.linspace(0, 1, 2), interleaved=True, begins=2),
    "none": UNTURNED,
}


def turned(rotation: Rotation, states: Tensor) -> Tensor:
    """As a model turns them: by positions in the text."""
    return rotation.turned(states, torch.arange(states.shape[-2]))


def told(policy_options: dict[str, object], rotation: Rotation, store: str = "packed", depth: int | None = 2) -> Memory:
    """The memory; beside the layer there is one that turns, so that not all are unturned."""
    memory = Memory(make_policy("sink_window", interval=INTERVAL, **policy_options), depth=depth, store=store)
    memory.tell_rotations([rotation, ROTATIONS["halves"]])
    return memory


def rolling(rotation: Rotation, query: Tensor, key: Tensor, value: Tensor, budget: int) -> tuple[Tensor, list[int]]:
    """One head, token by token, positions within the cache: what it puts out, and what it holds in the end."""
    held: list[int] = []
    out = []
    for token in range(query.shape[0]):
        held.append(token)
        places = torch.arange(len(held))
        keys = rotation.turned(key[held], places)
        asked = rotation.turned(query[token], places[-1])
        out.append(((keys @ asked) / math.sqrt(WIDTH)).softmax(0) @ value[held])
        if (token + 1) % INTERVAL == 0 and len(held) > budget:
            held = held[:SINKS] + held[SINKS - budget :]
    return torch.stack(out), held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "store"),
    [("halves", "packed"), ("halves", "padded"), ("neighbours, a part", "padded"), ("none", "packed")],
)
def test_attention_is_that_of_a_cache_numbered_anew(kind: str, store: str) -> None:
    """Rows of unequal length, heads of unequal budgets, calls cut anywhere, rows that leave and forks midway."""
    lengths, budgets, rotation = (150, 97, 3), (8, 21), ROTATIONS[kind]
    query, key, value = random_qkv(3, 2, 1, 150, WIDTH, seed=5)
    more = random_qkv(3, 2, 1, 70, WIDTH, seed=6)
    memory = told({"head_budgets": (budgets, budgets), "renumber": True}, rotation, store)
    raw = []
    for row, length in enumerate(lengths):
        raw.append(
            [torch.cat([t[row, :, :length], m[row]], dim=1) for t, m in zip((query, key, value), more, strict=True)]
        )
    whole = [(turned(rotation, q), turned(rotation, k), v) for q, k, v in raw]
    padding = torch.arange(150)[None] >= 150 - torch.tensor(lengths)[:, None]
    begun = [torch.zeros(3, 2, 150, WIDTH) for _ in range(3)]
    for row, length in enumerate(lengths):
        for into, states in zip(begun, whole[row], strict=True):
            into[row, :, 150 - length :] = states[:, :length]
    before = torch.cat([memory.attend(0, *(t[:, :, s] for t in begun), padding=padding[:, s])
                        for s in (slice(0, 61), slice(61, 150))], dim=2)  # fmt: skip
    order = torch.tensor([2, 0, 1])
    memory.fork().attend(0, *(t[:, :, :40] for t in more))  # goes its own way
    memory.select_sequences(order)
    rest = [torch.stack([whole[row][i][:, lengths[row] :] for row in order.tolist()]) for i in range(3)]
    after = torch.cat([memory.attend(0, *(t[:, :, s] for t in rest)) for s in (slice(0, 1), slice(1, 70))], dim=2)
    for place, row in enumerate(order.tolist()):
        for head, budget in enumerate(budgets):
            wanted, held = rolling(rotation, *(t[head] for t in raw[row]), budget)
            found = torch.cat([before[row, head, 150 - lengths[row] :], after[place, head]])
            torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
            assert kept_sets(memory, 0, place)[head] == held


@pytest.mark.parametrize("schedule", ["interval", "prompt"])
def test_the_same_is_kept_and_attention_differs(schedule: str) -> None:
    states = random_qkv(1, 2, 2, 90, WIDTH, seed=1)
    rotation = ROTATIONS["halves"]
    query, key = (turned(rotation, t) for t in states[:2])
    outs, kept = [], []
    for renumber in (False, True):
        memory = told({"budget": 12, "schedule": schedule, "renumber": renumber}, rotation)
        pieces = [
            memory.attend(0, *(t[:, :, at] for t in (query, key, states[2]))) for at in (slice(70), slice(70, 90))
        ]
        outs.append(pieces)
        kept.append(kept_sets(memory, 0, 0))
    assert kept[0] == kept[1]
    assert not torch.allclose(outs[0][1], outs[1][1], atol=1e-3)
    if schedule == "prompt":
        assert torch.equal(outs[0][0], outs[1][0])  # before anything is forgotten


@pytest.mark.parametrize("store", ["packed", "padded"])
def test_rounding_does_not_add_up_over_many_updates(store: str) -> None:
    """In bf16 a sink's key is one turn away from what the model made."""
    updates = 60
    rotation, tokens = ROTATIONS["halves"], updates * INTERVAL
    _, key, value = (t.bfloat16() for t in random_qkv(1, 1, 1, tokens, WIDTH, seed=2))
    memory = told({"budget": 12, "renumber": True}, rotation, store)
    for part in range(4):
        at = slice(part * tokens // 4, (part + 1) * tokens // 4)
        memory.attend(0, key[:, :, at], key[:, :, at], value[:, :, at])
    cache = memory.layers[0].cache
    held = cache.kept("keys", cache.packed_index()[0])[0, 0]
    assert memory.layers[0].updates == updates
    gone = tokens - 12
    wanted = rotation.turned(key[0, 0, :SINKS].float(), torch.full((SINKS,), gone)).bfloat16()
    assert torch.equal(held[:SINKS], wanted)
    assert torch.equal(held[SINKS:], key[0, 0, SINKS - 12 :])  # the window is as it was read


def test_what_cannot_be_renumbered_is_refused() -> None:
    with pytest.raises(AttachError, match=r"learned and added.*Use sink_window without it"):
        Memory(make_policy("sink_window", budget=8, renumber=True)).tell_rotations([UNTURNED] * 2)
    Memory(make_policy("sink_window", budget=8)).tell_rotations([UNTURNED] * 2)
    untold = Memory(make_policy("sink_window", interval=INTERVAL, budget=8, renumber=True))
    with pytest.raises(AttachError, match="nobody told how layer 0"):
        untold.attend(0, *random_qkv(1, 1, 1, 32, WIDTH, seed=0))
    with pytest.raises(ConfigError, match="True or False, found 'yes'"):
        make_policy("sink_window", budget=8, renumber="yes")


def test_rows_without_it_are_described_as_ever() -> None:
    assert "renumber" not in make_policy("sink_window", budget=8, renumber=False).describe()
    assert make_policy("sink_window", budget=8, renumber=True).describe()["renumber"] is True
