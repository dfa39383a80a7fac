"""Memory against a slow, obvious one: same output, same survivors, whatever the shapes, cuts and padding."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from namm import NAMM, Memory
from namm.attention import parts as attention_module
from namm.errors import AttachError, ConfigError
from namm.foresight import Foresight
from namm.grades import Grades
from namm.kernels import blocks as blocks_module
from namm.policies import POLICIES, Policy, TokenView, make_policy
from namm.rotation import Rotation
from tests.namm.reference import reference_attend


def any_policy(
    name: str, interval: int, budget: int = 12, heads: str = "ragged", last: int = 2, **more: object
) -> Policy:
    """A policy that evicts; the NAMM has random parameters of a size that splits its tokens."""
    generator = torch.Generator().manual_seed(3)
    options: dict[str, object] = {"interval": interval, "protected_last": last, **more}
    if name == "namm":
        namm = NAMM(flat=torch.randn(4172, generator=generator) * 0.3)
        return make_policy(name, namm=namm, statistics="sequence", heads=heads, **options)
    if name == "full":
        return make_policy(name, interval=interval)
    return make_policy(name, budget=budget, heads=heads, **options)


def random_qkv(batch: int, kv_heads: int, group: int, tokens: int, width: int, seed: int) -> tuple[Tensor, ...]:
    """Query, key, value; scaled so that attention is neither flat nor one-hot."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, kv_heads * group, tokens, width, generator=generator) * 1.5
    key, value = (torch.randn(batch, kv_heads, tokens, width, generator=generator) for _ in range(2))
    return query, key, value


def kept_sets(memory: Memory, layer: int, row: int) -> list[list[int]]:
    return [[p for p in head if p >= 0] for head in memory.kept_positions(layer)[row].tolist()]


def telling(memory: Memory, rows: int, kv_heads: int, tokens: int = 128, width: int = 8) -> Memory:
    """The memory, told whatever a policy may want to know of it: made up, and other for every row, head and token."""
    generator = torch.Generator().manual_seed(rows + kv_heads)
    layers = memory.depth or 1
    memory.tell_rotations([Rotation(100.0 ** -torch.linspace(0, 1, width // 2))] * layers)
    maxima = {layer: torch.rand(rows, kv_heads, tokens, 9, generator=generator) for layer in range(layers)}
    memory.tell_foresight(Foresight(maxima, torch.full((rows,), tokens), interval=16))
    worth = torch.rand(rows, tokens, generator=generator)
    memory.tell_grades(Grades({"relevance": worth, "pictures": torch.where(worth < 0.1, torch.inf, 0.0)}))
    return memory


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 2),
    interval=st.sampled_from([16, 32]),
    cuts=st.lists(st.integers(1, 40), max_size=3),
    heads=st.sampled_from(["ragged", "equal"]),
    store=st.sampled_from(["packed", "padded"]),
    seed=st.integers(0, 1000),
)
def test_batches_cuts_and_padding_equal_the_slow_memory_member_by_member(
    name: str,
    lengths: list[int],
    kv_heads: int,
    group: int,
    interval: int,
    cuts: list[int],
    heads: str,
    store: str,
    seed: int,
) -> None:
    """Left-padded prefill, arbitrary chunks after it: forgetting equals masking, a batch equals its members."""
    width, most = 8, max(lengths)
    policy = any_policy(name, interval, heads=heads)
    layer, depth = seed % 3, 3
    query, key, value = random_qkv(len(lengths), kv_heads, group, most, width, seed)
    padding = torch.arange(most)[None] >= most - torch.tensor(lengths)[:, None]
    memory = telling(Memory(policy, depth=depth, store=store), len(lengths), kv_heads)
    bounds = sorted({min(cut, most) for cut in cuts} | {0, most})
    out = torch.cat(
        [
            memory.attend(
                layer,
                query[:, :, a:b],
                key[:, :, a:b],
                value[:, :, a:b],
                padding=None if padding[:, a:b].all() else padding[:, a:b],
            )
            for a, b in itertools.pairwise(bounds)
        ],
        dim=2,
    )
    for row, length in enumerate(lengths):
        mine = slice(most - length, most)
        expected, kept = reference_attend(
            policy, layer, query[row, :, mine], key[row, :, mine], value[row, :, mine], row, depth, told=memory.told
        )
        torch.testing.assert_close(out[row, :, mine], expected, atol=3e-5, rtol=1e-4)
        assert kept_sets(memory, layer, row) == kept
    assert memory.seen.tolist() == lengths
    assert not out.masked_select(~padding[:, None, :, None]).any()


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"full"}))
def test_a_prompt_is_compressed_once_by_any_policy(name: str) -> None:
    """After the first call, whatever the lengths in it; what comes later is kept. A NAMM reads multiples of its hop."""
    lengths, more, layer, depth = [48, 16, 48, 32], 20, 1, 3
    most = max(lengths)
    policy = any_policy(name, 16, schedule="prompt")
    query, key, value = random_qkv(len(lengths), 2, 2, most + more, 8, seed=12)
    padding = torch.arange(most)[None] >= most - torch.tensor(lengths)[:, None]
    memory = telling(Memory(policy, depth=depth), len(lengths), 2)
    out = [memory.attend(layer, *(t[:, :, :most] for t in (query, key, value)), padding=padding)]
    held = memory.slots().sum(-1)[:, 0]
    out += [
        memory.attend(layer, *(t[:, :, at : at + 1] for t in (query, key, value))) for at in range(most, most + more)
    ]
    assert memory.slots().sum(-1)[:, 0].tolist() == (held + 2 * more).tolist()
    assert (held < 2 * torch.tensor(lengths)).any()
    assert memory.report().updates == 1
    for row, length in enumerate(lengths):
        mine = slice(most - length, None)
        expected, kept = reference_attend(
            policy,
            layer,
            query[row, :, mine],
            key[row, :, mine],
            value[row, :, mine],
            row,
            depth,
            first_call=length,
            told=memory.told,
        )
        torch.testing.assert_close(torch.cat(out, 2)[row, :, mine], expected, atol=3e-5, rtol=1e-4)
        assert kept_sets(memory, layer, row) == kept


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"full"}))
def test_at_one_budget_all_policies_hold_the_same(name: str) -> None:
    """In all, for some divide it unevenly; a NAMM once its own threshold lets enough tokens pass."""
    policy = any_policy(name, 16)
    if name == "namm":
        policy = make_policy(name, namm=policy.namm, statistics="sequence", interval=16, budget=12, threshold=-1e9)
    memory = telling(Memory(policy, depth=3), 2, 2)
    for layer in range(3):
        memory.attend(layer, *random_qkv(2, 2, 2, 96, 8, seed=layer))
    assert memory.slots().sum((1, 2)).tolist() == [3 * 2 * 12] * 2


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"full"}))
def test_a_threshold_keeps_what_scores_as_much(name: str) -> None:
    """The median of a policy's own scores at its first update, in place of a budget."""
    options = {"namm": any_policy("namm", 16).namm, "statistics": "sequence"} if name == "namm" else {}
    seen: list[Tensor] = []

    def policy_with(threshold: float) -> Policy:
        policy = make_policy(name, interval=48, protected_last=0, threshold=threshold, **options)
        score = policy.score

        def watched(view: TokenView) -> Tensor:
            seen.append(score(view)[0])
            return score(view)

        policy.score = watched
        return policy

    qkv = random_qkv(1, 2, 2, 48, 8, seed=13)
    telling(Memory(policy_with(-1e9), depth=1), 1, 2).attend(0, *qkv)
    threshold = float(seen[0][seen[0].isfinite()].median())
    memory = telling(Memory(policy_with(threshold), depth=1), 1, 2)
    memory.attend(0, *qkv)
    sinks = set(range(POLICIES[name].defaults.get("protected_first", 0)))
    expected = [sorted({*(head >= threshold).nonzero().flatten().tolist(), *sinks}) for head in seen[1]]
    assert kept_sets(memory, 0, 0) == expected
    assert 0 < sum(len(head) for head in expected) < 96


@pytest.mark.parametrize("interval", [None, 32])
def test_full_equals_stock_attention(interval: int | None) -> None:
    query, key, value = random_qkv(2, 2, 3, 150, 16, seed=0)
    memory = Memory(make_policy("full", interval=interval))
    out = torch.cat(
        [memory.attend(0, *(t[:, :, a:b] for t in (query, key, value))) for a, b in [(0, 100), (100, 101), (101, 150)]],
        2,
    )
    stock = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(out, stock, atol=2e-6, rtol=1e-5)
    assert memory.report().evicted == 0


def test_bytes_reported_are_bytes_held() -> None:
    """Counted by walking every tensor that the layer's cache really references."""
    memory = Memory(any_policy("namm", 32))
    query, key, value = random_qkv(3, 2, 2, 192, 16, seed=1)
    for layer in range(2):
        memory.attend(layer, query, key, value)
    report = memory.report()
    held = 0
    for layer in memory.layers.values():
        cache = layer.cache
        for tensor in (cache.keys, cache.values, cache.tail_keys, cache.tail_values):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes  # not a view into something larger
            held += tensor.untyped_storage().nbytes()
        slots = int(cache.slots().sum())
        assert cache.keys.shape[0] + int(cache.tail_lengths.sum()) * cache.kv_heads == slots
    assert report.cache_bytes == memory.cache_bytes() == held
    assert report.evicted > 0
    assert report.peak_cache_bytes > report.cache_bytes  # before the last update
    assert 0 < report.kept_fraction < 1
    assert "policy namm" in str(report)


@pytest.mark.parametrize(("interval", "kept"), [(48, True), (128, False)])
def test_a_call_that_goes_on_after_an_update_keeps_a_small_tail(interval: int, kept: bool) -> None:
    """It would be allocated and cleared again at once; a large one goes, and any goes with the call."""
    memory = Memory(any_policy("namm", interval))
    memory.attend(0, *random_qkv(1, 1, 1, interval - 1, 8, seed=1))
    held = memory.layers[0]
    before = (
        held.cache.tail_keys.data_ptr(),
        held.cache.tail_values.data_ptr(),
        held.contents.interval.queries.data_ptr(),
    )
    rows = held.cache.tail_keys
    memory.attend(0, *random_qkv(1, 1, 1, 3, 8, seed=2))
    after = (
        held.cache.tail_keys.data_ptr(),
        held.cache.tail_values.data_ptr(),
        held.contents.interval.queries.data_ptr(),
    )
    assert ((before == after) and held.cache.tail_keys is rows) == kept
    memory.attend(0, *random_qkv(1, 1, 1, interval - 2, 8, seed=3))
    assert held.cache.tail_keys.numel() == held.contents.interval.queries.numel() == 0


def test_update_memory_is_one_block_however_long_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor made while columns are recomputed does not grow as heads x 512 x N."""
    monkeypatch.setattr(attention_module, "BLOCK_ELEMENTS", 1 << 16)
    largest = []
    real = attention_module.attention_columns

    def watched(key: Tensor, query: Tensor, *rest: object, **more: object) -> Tensor:
        largest.append(key.shape[0] * key.shape[1] * key.shape[2] * query.shape[2])
        return real(key, query, *rest, **more)

    monkeypatch.setattr(attention_module, "attention_columns", watched)
    for tokens in (128, 1024):
        largest.clear()
        memory = Memory(make_policy("namm", namm=NAMM(), interval=64))  # a zero NAMM keeps everything
        memory.attend(0, *random_qkv(1, 2, 2, tokens, 16, seed=2))
        assert int(memory.slots().max()) == tokens
        assert max(largest) <= 1 << 16
        assert sum(largest) >= 2 * 2 * 64 * tokens


@pytest.mark.parametrize("name", ["namm", "h2o"])
def test_peak_memory_of_a_long_prefill_stays_far_below_an_attention_matrix(name: str) -> None:
    """Measured by the allocator's own trace: the growth from N to 4N is a few rows a token, not heads x 512."""
    from torch.profiler import ProfilerActivity, profile

    def biggest_tensor(tokens: int) -> int:
        memory = Memory(any_policy(name, 512, budget=64))
        qkv = random_qkv(1, 2, 4, tokens, 16, seed=4)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            memory.attend(0, *qkv)
        live = peak = 0
        for event in trace.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live)
        return peak

    short, long = biggest_tensor(1024), biggest_tensor(4096)
    matrix_growth = 8 * 512 * (4096 - 1024) * 4
    assert long - short < matrix_growth / 8


def test_protected_tokens_survive_and_budgets_hold() -> None:
    memory = Memory(make_policy("random", interval=16, budget=10, protected_first=3, protected_last=4))
    memory.attend(0, *random_qkv(2, 2, 1, 96, 8, seed=5))
    for row in range(2):
        for head in kept_sets(memory, 0, row):
            assert len(head) == 10
            assert head[:3] == [0, 1, 2]
            assert head[-4:] == [92, 93, 94, 95]


@pytest.mark.parametrize("name", ["h2o", "pyramidkv", "adakv", "fastgen"])
def test_budgets_of_each_layer_and_head_hold(name: str) -> None:
    """Whatever the policy's own division."""
    budgets = ((5, 9), (20, 3))
    memory = Memory(make_policy(name, interval=16, head_budgets=budgets), depth=2)
    for layer in range(2):
        memory.attend(layer, *random_qkv(2, 2, 1, 96, 8, seed=5))
    assert memory.slots().tolist() == [[list(layer) for layer in budgets]] * 2
    with pytest.raises(ConfigError, match="not both"):
        make_policy("h2o", interval=16, budget=4, head_budgets=budgets)


@pytest.mark.parametrize(
    ("limit", "word"),
    [
        ({"head_budgets": ((0, 2),) * 4, "protected_last": 4}, r"head_budgets\[0\]\[0\] .* 4 protected .* found 0"),
        ({"head_budgets": ((9, 9), (9, 5)), "protected_first": 4, "protected_last": 2}, r"\[1\]\[1\] .* 6 protected"),
        ({"head_budgets": ((9, 0),), "protected_last": 0}, "at least one token"),
        ({"head_budgets": ()}, "each layer and KV head"),
        ({"head_budgets": ((), ())}, "each layer and KV head"),
        ({"budget": 3, "protected_last": 4}, "budget must hold .* 4 protected"),
        ({"budget": True}, "whole number"),
        ({"head_budgets": ((True,),)}, "whole number"),
        ({"threshold": float("nan")}, "found NaN"),
        ({"budget": 12, "steepness": float("nan")}, "steepness"),
    ],
)
def test_no_limit_loses_protected_tokens_or_empties_a_head(limit: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make_policy("h2o", **{"interval": 16, **limit})


def test_budgets_of_heads_are_refused_by_a_model_of_another_shape() -> None:
    """At its first call, in words, and not by an index or by broadcasting."""
    policy = make_policy("h2o", interval=16, head_budgets=((5, 9), (20, 3)))
    one = make_policy("h2o", interval=16, head_budgets=((5,), (9,)))
    for depth in (None, 3):
        with pytest.raises(AttachError, match=r"layer 2 has 2 KV heads .* found budgets for 2 layers"):
            Memory(policy, depth=depth).attend(2, *random_qkv(1, 2, 1, 4, 8, seed=1))
    with pytest.raises(AttachError, match="model 3 layers; found budgets for 2 layers"):
        Memory(policy, depth=3).attend(0, *random_qkv(1, 2, 1, 4, 8, seed=1))
    for refused, heads in ((policy, 3), (policy, 1), (one, 2)):
        with pytest.raises(AttachError, match=f"has {heads} KV heads .* heads for this layer"):
            Memory(refused).attend(1, *random_qkv(1, heads, 1, 4, 8, seed=1))


def test_population_is_a_batch_dimension() -> None:
    """Candidates side by side in one batch give what each gives alone."""
    generator = torch.Generator().manual_seed(0)
    population = torch.randn(3, 4172, generator=generator) * 0.3
    query, key, value = (t.repeat(3, 1, 1, 1) for t in random_qkv(2, 2, 2, 80, 8, seed=6))
    candidate = torch.arange(3).repeat_interleave(2)
    together = Memory(
        make_policy("namm", namm=NAMM(), statistics="sequence", interval=32, population=population, candidate=candidate)
    )
    out = together.attend(0, query, key, value)
    sizes = set()
    for index in range(3):
        alone = Memory(make_policy("namm", namm=NAMM(flat=population[index]), statistics="sequence", interval=32))
        mine = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(
            out[mine], alone.attend(0, query[mine], key[mine], value[mine]), atol=1e-5, rtol=1e-4
        )
        assert kept_sets(together, 0, 2 * index) == kept_sets(alone, 0, 0)
        sizes.add(int(alone.slots().sum()))
    assert len(sizes) == 3  # the candidates do differ


def test_rows_that_leave_do_not_change_the_others() -> None:
    policy = any_policy("random", 16)
    query, key, value = random_qkv(4, 2, 2, 100, 8, seed=7)
    whole, leaving = Memory(policy), Memory(policy)
    expected = whole.attend(0, query, key, value)
    leaving.attend(0, *(t[:, :, :50] for t in (query, key, value)))
    rows = torch.tensor([3, 1])
    before = leaving.cache_bytes()
    leaving.select_sequences(rows)
    assert leaving.cache_bytes() < before
    rest = leaving.attend(0, *(t[rows, :, 50:] for t in (query, key, value)))
    torch.testing.assert_close(rest, expected[rows, :, 50:], atol=1e-5, rtol=1e-4)
    assert kept_sets(leaving, 0, 0) == kept_sets(whole, 0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type_and_stays_near_fp32(dtype: torch.dtype) -> None:
    query, key, value = random_qkv(1, 2, 2, 96, 16, seed=8)
    policy = make_policy("window", interval=32, budget=20)
    exact = Memory(policy).attend(0, query, key, value)
    memory = Memory(policy)
    out = memory.attend(0, query.to(dtype), key.to(dtype), value.to(dtype))
    assert out.dtype == dtype
    assert memory.layers[0].cache.keys.dtype == dtype
    assert (out.float() - exact).abs().max() < 0.1


def test_attention_without_a_fused_kernel_equals_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path other devices take, driven through small blocks and with a mask that empties a row."""
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", 256)
    query, key, value = random_qkv(2, 2, 1, 40, 8, seed=9)
    mask = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(1)) < 0.3
    mask[0, 0, 5] = False
    fused = attention_module.attend_part(query, key, value, 0.3, mask)
    blocks = blocks_module.attend_in_blocks(query, key, value, 0.3, mask)
    seen = fused[1] > -torch.inf
    torch.testing.assert_close(blocks[1], fused[1])
    torch.testing.assert_close(blocks[0][seen], fused[0][seen])
    assert torch.isfinite(blocks[0]).all()


def test_wrong_shapes_and_batches_are_refused() -> None:
    query, key, value = random_qkv(2, 2, 2, 8, 8, seed=10)
    memory = Memory(make_policy("full"))
    with pytest.raises(AttachError, match="expected query"):
        memory.attend(0, query[:, :3], key, value)
    memory.attend(0, query, key, value)
    with pytest.raises(AttachError, match="holds 2 sequences"):
        memory.attend(0, query[:1], key[:1], value[:1])
