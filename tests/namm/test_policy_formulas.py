"""Each policy's scores against its paper's formula, written out slowly for one sequence."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from namm import Memory
from namm.errors import AttachError, ConfigError
from namm.foresight import Foresight, Recorder
from namm.policies import Policy, make_policy
from namm.rotation import UNTURNED, Rotation

TOKENS, WIDTH, KV_HEADS, GROUP = 48, 8, 2, 2
ROTATION = Rotation(torch.tensor([1.0, 0.3, 0.1]), interleaved=True)  # the last two numbers of a state are not turned


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


def scores_of(
    policy: Policy,
    qkv: tuple[Tensor, Tensor, Tensor],
    ids: Tensor | None = None,
    depth: int = 1,
    foresight: Foresight | None = None,
) -> Memory:
    """The memory after the whole sequence; ``memory.scores`` are those of every update."""
    memory = Memory(policy, depth=depth)
    memory.tell_rotations([ROTATION])
    memory.tell_foresight(foresight)
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


def turned(state: Tensor, position: int) -> Tensor:
    """A query or key turned to a position, pair by pair, as complex numbers."""
    out = state.clone()
    for pair, frequency in enumerate(ROTATION.frequencies.tolist()):
        number = complex(state[2 * pair], state[2 * pair + 1]) * cmath.exp(1j * frequency * position)
        out[2 * pair], out[2 * pair + 1] = number.real, number.imag
    return out


@pytest.mark.parametrize("interval", [48, 16])
@pytest.mark.parametrize("covariance", [True, False])
def test_expected_attention_expects_the_mean_weight_of_queries_to_come(
    qkv: tuple[Tensor, ...], interval: int, covariance: bool
) -> None:
    """At the last update: queries of the last interval, everything kept so far, sinks apart."""
    policy = make_policy(
        "expected_attention", interval=interval, threshold=-1.0, future=5, covariance=covariance, epsilon=0.01,
        protected_first=3,
    )  # fmt: skip
    memory = scores_of(policy, qkv)
    query, key, value = qkv
    asked = range(max(3, TOKENS - interval), TOKENS)
    for kv_head in range(KV_HEADS):
        weights = torch.zeros(TOKENS - 3)
        for head in range(kv_head * GROUP, (kv_head + 1) * GROUP):
            raw = [turned(query[0, head, now], -now) for now in asked]
            mean = sum(raw) / len(raw)
            spread = sum(torch.outer(each - mean, each - mean) for each in raw) / len(raw)
            ahead = sum(
                torch.stack([turned(unit, TOKENS + step) for unit in torch.eye(WIDTH)], dim=1) for step in range(5)
            )
            ahead = ahead / 5  # its columns are where the unit vectors go
            logits = []
            for token in range(3, TOKENS):
                one = key[0, kv_head, token] / math.sqrt(WIDTH)
                exponent = one @ ahead @ mean
                if covariance:
                    exponent = exponent + one @ ahead @ spread @ ahead.T @ one / 2
                logits.append(exponent)
            weights += torch.stack(logits).softmax(0) / GROUP
        expected = (weights + 0.01) * value[0, kv_head, 3:].norm(dim=-1)
        torch.testing.assert_close(memory.scores[-1][kv_head, 3:], expected, atol=1e-5, rtol=1e-3)
        assert kept(memory)[kv_head][:3] == [0, 1, 2]


@pytest.mark.parametrize("cross", [True, False])
def test_lagkv_measures_a_part_by_the_range_of_the_next(qkv: tuple[Tensor, ...], cross: bool) -> None:
    """At the third update, of tokens with gaps between them: parts of 4 behind 2 sinks."""
    options = {"interval": 16, "budget": 20, "lag": 4, "cross": cross, "protected_first": 2, "protected_last": 0}
    memory = scores_of(make_policy("lagkv", **options), qkv)
    first = Memory(make_policy("lagkv", **options))
    first.attend(0, *(t[:, :, :32] for t in qkv))
    for head, old in enumerate(kept(first)):
        held = [*old, *range(32, TOKENS)]
        parts = [held[2:][start : start + 4] for start in range(0, len(held) - 2, 4)]
        whole = [part for part in parts if len(part) == 4]
        expected = {0: 1.0, 1: 1.0} | dict.fromkeys([token for part in parts[len(whole) - 1 :] for token in part], 1.0)
        for part, following in itertools.pairwise(whole):
            total = torch.zeros(4)
            for states in (qkv[1][0, head], qkv[2][0, head]):
                ahead = torch.stack([states[t] for t in following])
                least, most = ahead.min(0).values, ahead.max(0).values
                total += torch.stack([((states[t] - least) / (most - least)).std() for t in part]).softmax(0) / 2
            order = total.argsort().tolist()
            for place, token in enumerate(part):
                expected[token] = float(total[place]) if cross else order.index(place) / 4
        torch.testing.assert_close(memory.scores[2][head], torch.tensor([expected[token] for token in held]))


def test_lagkv_before_there_are_two_parts_prefers_the_new(qkv: tuple[Tensor, ...]) -> None:
    memory = scores_of(make_policy("lagkv", interval=16, budget=8, lag=8, protected_first=2, protected_last=0), qkv)
    assert memory.scores[0][0].tolist() == pytest.approx([1.0, 1.0, *(place / 14 for place in range(14))])
    assert make_policy("lagkv", budget=40).lag == 10
    assert make_policy("lagkv", budget=4000).lag == 128


def test_lagkv_survives_a_channel_that_never_changes(qkv: tuple[Tensor, ...]) -> None:
    flat = [t.clone() for t in qkv]
    flat[1][..., 0] = 1.0
    flat[2][:] = 2.0
    memory = scores_of(make_policy("lagkv", interval=16, budget=12, lag=3), tuple(flat))
    assert all(bool(scores.isfinite().all()) for scores in memory.scores)
    assert [len(head) for head in kept(memory)] == [12, 12]


def test_leverage_is_what_other_keys_do_not_explain(qkv: tuple[Tensor, ...]) -> None:
    """A sketch that loses nothing: leverage does not depend on how keys are projected, but for the ridge."""
    memory = scores_of(make_policy("leverage", interval=48, budget=20, sketch=256, seed=5), qkv)
    raw = torch.stack([torch.stack([turned(qkv[1][0, h, t], -t) for t in range(TOKENS)]) for h in range(KV_HEADS)])
    found = []
    for head in raw.double():
        centred = head - head.mean(0)
        found.append(torch.stack([one @ torch.linalg.inv(centred.T @ centred) @ one for one in centred]))
    expected = torch.stack(found).float()
    expected = (expected - expected.mean()) / expected.std()
    torch.testing.assert_close(memory.scores[0], expected, atol=0.02, rtol=0.02)


def test_compactor_blends_leverage_with_attention_in_both_directions(qkv: tuple[Tensor, ...]) -> None:
    """A prompt of which 3 first and 5 newest tokens are certain: chunks of 16 between them."""
    options = {"sketch": 6, "seed": 2, "protected_first": 3, "protected_last": 5}
    policy = make_policy("compactor", schedule="prompt", budget=24, chunk=16, **options)
    memory = scores_of(policy, qkv)
    middle = range(3, TOKENS - 5)
    query, key, value = qkv
    received = torch.zeros(KV_HEADS, len(middle))
    for head in range(KV_HEADS * GROUP):
        for start in range(0, len(middle), 16):
            chunk = middle[start : start + 16]
            for now in chunk:
                weights = torch.stack([query[0, head, now] @ key[0, head // GROUP, t] for t in chunk]).softmax(0)
                received[head // GROUP, start : start + len(chunk)] += weights / GROUP
    strength = received * value[0, :, 3 : TOKENS - 5].norm(dim=-1)
    padded = torch.nn.functional.pad(strength, (1, 1))
    pooled = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    attended = (pooled - pooled.mean()) / pooled.std()
    alone = scores_of(make_policy("compactor", schedule="prompt", budget=24, chunk=16, blend=0.0, **options), qkv)
    torch.testing.assert_close(alone.scores[0][:, 3 : TOKENS - 5], attended, atol=1e-4, rtol=1e-3)
    part = tuple(t[:, :, 3 : TOKENS - 5] for t in qkv)
    raw = tuple(torch.stack([turned(t[0, h, i], -i - 3) for h in range(t.shape[1]) for i in range(t.shape[2])])
                .view_as(t) for t in part)  # fmt: skip
    unturned = Memory(make_policy("leverage", schedule="prompt", threshold=-9.0, sketch=6, seed=2), depth=1)
    unturned.tell_rotations([UNTURNED])
    outliers: list[Tensor] = []
    score = unturned.policy.score
    unturned.policy.score = lambda view: outliers.append(score(view)) or outliers[-1]
    unturned.attend(0, *raw)
    blended = attended + 0.5 * outliers[0][0]  # half of the 48 tokens go
    torch.testing.assert_close(memory.scores[0][:, 3 : TOKENS - 5], blended, atol=1e-3, rtol=1e-3)


def test_compactor_remembers_what_a_token_received_in_its_own_interval(qkv: tuple[Tensor, ...]) -> None:
    """No later query changes it; only what it is compared with does."""
    options = {"interval": 16, "threshold": -1e9, "protected_first": 0, "protected_last": 0, "blend": 0.0}
    memory = scores_of(make_policy("compactor", **options), qkv)
    early, late = (memory.scores[update][:, :16] for update in (0, 2))
    apart = [(scores - scores[:, :1])[:, 1:] for scores in (early, late)]
    ratio = apart[0] / apart[1]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), atol=1e-3, rtol=1e-3)


def test_the_oracle_keeps_what_is_looked_at_after_the_update(qkv: tuple[Tensor, ...]) -> None:
    """The largest attention of any later query, read off a full cache; of a prompt's end nothing more is known."""
    attended = torch.zeros(KV_HEADS * GROUP, TOKENS, TOKENS)
    for head in range(KV_HEADS * GROUP):
        for now in range(TOKENS):
            logits = qkv[1][0, head // GROUP, : now + 1] @ qkv[0][0, head, now] / math.sqrt(WIDTH)
            attended[head, now, : now + 1] = logits.softmax(0)
    recorder = Recorder(16, rows=1, tokens=TOKENS, points=3)
    full = Memory(recorder)
    full.attend(0, *qkv)
    foresight = recorder.foresight(torch.tensor([TOKENS]))
    memory = scores_of(make_policy("oracle", interval=16, budget=10, protected_last=0), qkv, foresight=foresight)
    held = [list(range(16))] * KV_HEADS
    for update in range(2):
        seen = 16 * (update + 1)
        chosen = []
        for head in range(KV_HEADS):
            mine = attended[head * GROUP : (head + 1) * GROUP, seen:]
            expected = torch.stack([mine[:, :, token].max() for token in held[head]])
            torch.testing.assert_close(memory.scores[update][head, -len(held[head]) :], expected)
            chosen += [(float(score), head, token) for score, token in zip(expected, held[head], strict=True)]
        best_of_layer = sorted(chosen, reverse=True)[: 2 * 10]  # heads compete
        held = [sorted(t for _, h, t in best_of_layer if h == head) for head in range(KV_HEADS)]
        held = [[*tokens, *range(seen, seen + 16)] for tokens in held]
    assert memory.scores[2].max() == 0.0  # nobody looks any more


def test_what_was_read_ahead_of_another_text_is_refused(qkv: tuple[Tensor, ...]) -> None:
    known = Foresight({0: torch.rand(1, KV_HEADS, TOKENS, 1)}, torch.tensor([TOKENS]), None, (tuple(range(TOKENS)),))
    policy = make_policy("oracle", interval=16, budget=10)
    scores_of(policy, qkv, torch.arange(TOKENS)[None], foresight=known)
    with pytest.raises(AttachError, match="another text"):
        scores_of(policy, qkv, torch.arange(TOKENS)[None] + 1, foresight=known)
    with pytest.raises(AttachError, match="second reading"):
        scores_of(policy, qkv)
    with pytest.raises(AttachError, match="just this batch"):
        scores_of(policy, tuple(t.repeat(2, 1, 1, 1) for t in qkv), foresight=known)
    silent = Memory(make_policy("leverage", interval=16, budget=10))
    with pytest.raises(AttachError, match="how layer 0 encodes"):
        silent.attend(0, *qkv)


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
    kinds = memory.layers[0].contents.head_state["kind"].clone()
    assert kinds.min() >= 1
    one = Memory(policy)
    one.attend(0, *(t[:, :, :16] for t in qkv))
    assert torch.equal(one.layers[0].contents.head_state["kind"], kinds)


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
    assert torch.equal(moved.layers[0].contents.head_state["kind"], still.layers[0].contents.head_state["kind"][rows])
    kinds = still.layers[0].contents.head_state["kind"]
    assert not torch.equal(kinds[0], kinds[1])
    expected = still.kept_positions(0)[rows]
    assert torch.equal(moved.kept_positions(0), expected)
