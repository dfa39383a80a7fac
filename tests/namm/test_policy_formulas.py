"""Each policy's scores against its paper's formula, written out slowly for one sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from namm import Memory
from namm.errors import AttachError, ConfigError
from namm.policies import Policy, make_policy

TOKENS, WIDTH, KV_HEADS, GROUP = 48, 8, 2, 2


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """One sequence; attention neither flat nor one-hot."""
    generator = torch.Generator().manual_seed(11)
    query = torch.randn(1, KV_HEADS * GROUP, TOKENS, WIDTH, generator=generator) * 1.5
    key, value = (torch.randn(1, KV_HEADS, TOKENS, WIDTH, generator=generator) for _ in range(2))
    return query, key, value


def attention(query: Tensor, key: Tensor, held: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Probabilities [kv_heads, queries, tokens], mean over the group; ``held``: tokens that a head did not forget."""
    out = torch.zeros(KV_HEADS, TOKENS, TOKENS)
    for head in range(KV_HEADS * GROUP):
        mine = range(TOKENS) if held is None else held[head // GROUP]
        for now in range(TOKENS):
            seen = [token for token in mine if token <= now]
            logits = key[0, head // GROUP, seen] @ query[0, head, now]
            out[head // GROUP, now, seen] += (logits / math.sqrt(WIDTH)).softmax(0) / GROUP
    return out


def scores_of(policy: Policy, qkv: tuple[Tensor, Tensor, Tensor], ids: Tensor | None = None, depth: int = 1) -> Memory:
    """The memory after the whole sequence; ``memory.scores`` are those of every update."""
    memory = Memory(policy, depth=depth)
    memory.scores, original = [], policy.score

    def score(view: object) -> Tensor:
        memory.scores.append(original(view)[0])
        return original(view)

    policy.score = score
    if ids is not None:
        memory.tell_tokens(ids)
    memory.attend(0, *qkv)
    return memory


def kept(memory: Memory) -> list[list[int]]:
    return [[p for p in head if p >= 0] for head in memory.kept_positions(0)[0].tolist()]


def best(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the best, in order; of equals the newer."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], -i))[:count])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_snapkv_pools_what_its_window_looked_at(qkv: tuple[Tensor, ...], pooling: str) -> None:
    policy = make_policy("snapkv", schedule="prompt", budget=20, window=6, kernel=5, pooling=pooling)
    memory = scores_of(policy, qkv)
    attended = attention(*qkv[:2])
    for head in range(KV_HEADS):
        seen = [float(attended[head, -6:, token].mean()) for token in range(TOKENS - 6)]
        padded = [0.0, 0.0, *seen, 0.0, 0.0]  # the window takes no part in the pooling
        spans = [padded[token : token + 5] for token in range(TOKENS - 6)]
        pooled = [max(span) if pooling == "max" else sum(span) / 5 for span in spans]
        torch.testing.assert_close(memory.scores[0][head, :-6], torch.tensor(pooled))
        assert kept(memory)[head] == [*best(pooled, 14), *range(TOKENS - 6, TOKENS)]


def test_snapkv_forgets_older_windows_and_pools_neighbours_in_the_cache(qkv: tuple[Tensor, ...]) -> None:
    """At the third update, of tokens with gaps between them."""
    policy = make_policy("snapkv", interval=16, budget=10, window=4, kernel=3)
    memory = scores_of(policy, qkv)
    first = Memory(make_policy("snapkv", interval=16, budget=10, window=4, kernel=3))
    first.attend(0, *(t[:, :, :32] for t in qkv))
    held = [[*head, *range(32, TOKENS)] for head in kept(first)]
    attended = attention(*qkv[:2], held)
    for head in range(KV_HEADS):
        seen = [float(attended[head, -4:, token].mean()) for token in held[head][:-4]]
        pooled = [sum(([0.0, *seen, 0.0])[i : i + 3]) / 3 for i in range(len(seen))]
        torch.testing.assert_close(memory.scores[2][head, :-4], torch.tensor(pooled), atol=1e-6, rtol=1e-4)
        assert kept(memory)[head] == [*(held[head][i] for i in best(pooled, 6)), *range(TOKENS - 4, TOKENS)]


def test_snapkv_without_a_window_given_observes_with_half_the_budget_at_most() -> None:
    assert make_policy("snapkv", budget=12).window == 6
    assert make_policy("snapkv", budget=1000).window == 32
    assert make_policy("snapkv", head_budgets=((3, 90),)).window == 1
    with pytest.raises(ConfigError, match="observation window"):
        make_policy("snapkv", budget=12, window=13)
    with pytest.raises(ConfigError, match="odd kernel"):
        make_policy("snapkv", budget=12, kernel=4)


def test_tova_asks_the_last_query_of_all_heads_together(qkv: tuple[Tensor, ...]) -> None:
    memory = scores_of(make_policy("tova", schedule="prompt", budget=12), qkv)
    weight = attention(*qkv[:2])[:, -1].mean(0)
    torch.testing.assert_close(memory.scores[0], weight.expand(KV_HEADS, -1))
    assert kept(memory) == [best([*weight[:-1].tolist(), 1.0], 12)] * KV_HEADS


def test_tova_averages_over_the_heads_that_hold_a_token(qkv: tuple[Tensor, ...]) -> None:
    memory = scores_of(make_policy("tova", interval=16, head_budgets=((4, 9),)), qkv)
    first = Memory(make_policy("tova", interval=16, head_budgets=((4, 9),)))
    first.attend(0, *(t[:, :, :32] for t in qkv))
    held = [[*head, *range(32, TOKENS)] for head in kept(first)]
    attended = attention(*qkv[:2], held)[:, -1]
    shared = [token for token in held[1] if token in held[0]]
    assert 0 < len(shared) < len(held[1])
    expected = [float(attended[:, t].mean() if t in shared else attended[1, t]) for t in held[1]]
    torch.testing.assert_close(memory.scores[2][1], torch.tensor(expected), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("history", [10, 16, 40])
def test_scissorhands_counts_attention_below_the_average(qkv: tuple[Tensor, ...], history: int) -> None:
    """A history of 40 queries is three intervals of 16."""
    policy = make_policy("scissorhands", interval=16, threshold=-1e9, history=history, recent=3, average="seen")
    memory = scores_of(policy, qkv)
    attended = attention(*qkv[:2])
    counted = history if history <= 16 else 48
    for head in range(KV_HEADS):
        expected = []
        for token in range(TOKENS):
            asked = range(max(token, TOKENS - counted), TOKENS)
            low = sum(float(attended[head, now, token]) < (1 - 1e-5) / (now + 1) for now in asked)
            expected.append(0.0 if token >= TOKENS - 3 else -float(low))
        assert memory.scores[2][head].tolist() == expected
    assert min(expected) < -2


def test_scissorhands_averages_over_what_a_query_could_see(qkv: tuple[Tensor, ...]) -> None:
    """After an eviction the average token has a larger share."""
    policy = make_policy("scissorhands", interval=16, budget=6, history=16, recent=1, average="seen")
    memory = scores_of(policy, qkv)
    first = Memory(make_policy("scissorhands", interval=16, budget=6, history=16, recent=1, average="seen"))
    first.attend(0, *(t[:, :, :32] for t in qkv))
    held = [[*head, *range(32, TOKENS)] for head in kept(first)]
    attended = attention(*qkv[:2], held)
    for head in range(KV_HEADS):
        low = [
            sum(float(attended[head, now, token]) < 1 / (6 + now - 31) for now in range(max(32, token), TOKENS))
            for token in held[head][:-1]
        ]
        assert memory.scores[2][head].tolist() == [*(-float(count) for count in low), 0.0]


def test_scissorhands_compares_with_the_step(qkv: tuple[Tensor, ...]) -> None:
    """Algorithm 2: one part in as many tokens as there have been up to the update, whatever was evicted since."""
    policy = make_policy("scissorhands", interval=16, budget=6, history=16, recent=1)
    assert policy.describe()["average"] == "step"
    memory = scores_of(policy, qkv)
    first = Memory(make_policy("scissorhands", interval=16, budget=6, history=16, recent=1))
    first.attend(0, *(t[:, :, :32] for t in qkv))
    held = [[*head, *range(32, TOKENS)] for head in kept(first)]
    attended = attention(*qkv[:2], held)
    for head in range(KV_HEADS):
        low = [
            sum(float(attended[head, now, token]) < 1 / TOKENS for now in range(max(32, token), TOKENS))
            for token in held[head][:-1]
        ]
        assert memory.scores[2][head].tolist() == [*(-float(count) for count in low), 0.0]


def test_scissorhands_drops_half_of_a_full_buffer_and_never_its_recent_tokens(qkv: tuple[Tensor, ...]) -> None:
    """The paper's drop amount: a buffer of 2N tokens is an interval and a budget of N."""
    flat = (torch.zeros_like(qkv[0]), *qkv[1:])  # all tokens get the same attention: nothing is ever below average
    for given in (qkv, flat):
        memory, sizes = Memory(make_policy("scissorhands", interval=16, budget=16, recent=5), depth=1), []
        for token in range(TOKENS):
            memory.attend(0, *(t[:, :, token : token + 1] for t in given))
            sizes.append([len(head) for head in kept(memory)])
            if token % 16 == 15:
                assert all(set(range(token - 4, token + 1)) <= set(head) for head in kept(memory))
        assert max(map(max, sizes)) == 31
        assert all(size == [16] * KV_HEADS for size in sizes[15::16])


def test_keydiff_keeps_keys_unlike_the_mean_of_those_held(qkv: tuple[Tensor, ...]) -> None:
    memory = scores_of(make_policy("keydiff", interval=16, budget=8, protected_last=0), qkv)
    first = Memory(make_policy("keydiff", interval=16, budget=8, protected_last=0))
    first.attend(0, *(t[:, :, :32] for t in qkv))
    for head, old in enumerate(kept(first)):
        held = [*old, *range(32, TOKENS)]
        unit = [qkv[1][0, head, token] / qkv[1][0, head, token].norm() for token in held]
        mean = sum(unit) / len(unit)
        alike = [float(key @ mean / mean.norm()) for key in unit]
        torch.testing.assert_close(memory.scores[2][head], -torch.tensor(alike), atol=1e-5, rtol=1e-4)
        assert kept(memory)[head] == [held[i] for i in best([-value for value in alike], 8)]


@pytest.mark.parametrize("recovery", [0.05, 0.3, 0.6, 0.8, 0.91, 0.99])
def test_fastgen_gives_each_head_the_cheapest_cache_that_recovers_its_attention(
    qkv: tuple[Tensor, ...], recovery: float
) -> None:
    ids = torch.arange(TOKENS)[None] % 7
    policy = make_policy(
        "fastgen", schedule="prompt", special_ids=(0,), punctuation_ids=(3, 5), recovery=recovery, frequent=0.2,
        local=0.25, protected_last=0,
    )  # fmt: skip
    memory = scores_of(policy, qkv, ids)
    attended = attention(*qkv[:2])
    for head in range(KV_HEADS):
        mass = attended[head].sum(0).tolist()
        special = {t for t in range(TOKENS) if t % 7 == 0}
        small = special | {t for t in range(TOKENS) if t % 7 in (3, 5)}
        frequent = small | set(best(mass, math.ceil(0.2 * TOKENS)))
        near = math.ceil(0.25 * TOKENS)
        local = frequent | set(range(TOKENS - near, TOKENS))

        def recovered(always: set[int], reach: int = 0, head: int = head) -> float:
            rows = [
                sum(float(attended[head, now, t]) for t in range(now + 1) if t in always or now - t < reach)
                for now in range(TOKENS)
            ]
            return sum(rows) / TOKENS

        kinds = [
            (special, recovered(special)), (small, recovered(small)), (frequent, recovered(frequent)),
            (local, recovered(frequent, near)), (set(range(TOKENS)), 1.0),
        ]  # fmt: skip
        cheapest = next(tokens for tokens, share in kinds if share >= recovery)
        assert kept(memory)[head] == sorted(cheapest)


def test_fastgen_keeps_the_kind_that_it_chose_first(qkv: tuple[Tensor, ...]) -> None:
    policy = make_policy("fastgen", interval=16, recovery=0.9, frequent=0.25, local=0.25, protected_last=0)
    memory = scores_of(policy, qkv)
    kinds = memory.layers[0].head_state["kind"].clone()
    assert kinds.min() >= 1
    one = Memory(policy)
    one.attend(0, *(t[:, :, :16] for t in qkv))
    assert torch.equal(one.layers[0].head_state["kind"], kinds)


def test_fastgen_within_a_budget_keeps_its_kinds_first_and_fills_the_budget(qkv: tuple[Tensor, ...]) -> None:
    memory = scores_of(make_policy("fastgen", interval=16, budget=9, recovery=0.5, special_ids=(4,)), qkv,
                       ids=torch.arange(TOKENS)[None] % 12)  # fmt: skip
    assert sum(len(head) for head in kept(memory)) == 18
    assert all({4, 16, 28, 40} <= set(head) for head in kept(memory))


def test_fastgen_without_the_tokens_it_was_promised_says_so(qkv: tuple[Tensor, ...]) -> None:
    with pytest.raises(AttachError, match="tell_tokens"):
        scores_of(make_policy("fastgen", interval=16, special_ids=(0,)), qkv)
    blind = scores_of(make_policy("fastgen", interval=16, recovery=0.0, protected_last=0), qkv)
    assert kept(blind) == [[0], [0]]  # the first token alone is special


def test_a_threshold_of_a_window_is_a_number_of_tokens(qkv: tuple[Tensor, ...]) -> None:
    assert kept(scores_of(make_policy("window", interval=16, threshold=-9.0), qkv))[0] == list(range(38, 48))
    assert kept(scores_of(make_policy("oldest", interval=16, threshold=-9.0), qkv))[0] == [*range(10), 47]


def test_what_is_known_of_heads_and_tokens_moves_with_its_row() -> None:
    """Rows that are copied and dropped keep their kinds and their token ids."""
    generator = torch.Generator().manual_seed(3)
    qkv = [torch.randn(2, KV_HEADS, 32, WIDTH, generator=generator) for _ in range(3)]
    qkv[0][1] *= 4.0  # sharper attention, cheaper kinds
    ids = torch.stack([torch.arange(32) % 5, torch.arange(32) % 7])
    policy = make_policy("fastgen", interval=16, recovery=0.8, frequent=0.4, local=0.2, special_ids=(1,))
    rows = torch.tensor([1, 1, 0])
    moved, still = Memory(policy), Memory(policy)
    for memory in (moved, still):
        memory.tell_tokens(ids[:, :16])
        memory.attend(0, *(t[:, :, :16] for t in qkv))
    moved.select_sequences(rows)
    moved.tell_tokens(ids[rows, 16:])
    moved.attend(0, *(t[rows, :, 16:] for t in qkv))
    still.tell_tokens(ids[:, 16:])
    still.attend(0, *(t[:, :, 16:] for t in qkv))
    assert torch.equal(moved.layers[0].head_state["kind"], still.layers[0].head_state["kind"][rows])
    kinds = still.layers[0].head_state["kind"]
    assert not torch.equal(kinds[0], kinds[1])
    expected = still.kept_positions(0)[rows]
    assert torch.equal(moved.kept_positions(0), expected)
