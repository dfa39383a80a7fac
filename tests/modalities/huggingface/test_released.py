"""The mode "released" keeps and generates what the released code does, from the prompt alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from modalities import attach
from modalities.huggingface.released import attach_released
from modalities.huggingface.rope import NTKRope, scaled_rope
from namm import NAMM, Memory, NAMMConfig
from namm.errors import AttachError, ConfigError, UnknownNameError
from namm.features import FeatureStatistics
from namm.layer import KeptTokens
from namm.policies import make_policy
from tests.modalities.huggingface.released_reference import END, ReleasedRun, Shape, random_weights

GOLDEN = Path(__file__).parents[2] / "golden"
RUNS = sorted(path.stem for path in GOLDEN.glob("e2e_*.npz"))
"""Every whole run of the released code that lies there; further ones of the same form are tested as they are added."""


def llama(shape: Shape, weights: dict[str, Tensor], dtype: torch.dtype) -> LlamaForCausalLM:
    """The model in transformers, its rotary positions as pretrained."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        rms_norm_eps=shape.epsilon, max_position_embeddings=8192, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        bos_token_id=0, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(weights)
    return model.to(dtype)


def released_namm(flat: Tensor, mean: Tensor, variance: Tensor) -> NAMM:
    return NAMM(NAMMConfig.preset("released"), flat, FeatureStatistics(mean[None], variance.sqrt()[None]))


def run(
    model: LlamaForCausalLM,
    namm: NAMM,
    prompts: Tensor,
    tokens: int,
    rope: NTKRope | None = None,
    budget: int | None = None,
    **more: Any,
) -> tuple[Tensor, dict[tuple[int, int], Tensor], Memory]:
    """Greedy tokens, and kept positions ``[rows, kv_heads, slots]`` by update and layer."""
    kept: dict[tuple[int, int], Tensor] = {}

    def note(now: KeptTokens) -> None:
        kept[int(now.seen[0]) // 512 - 1, now.layer] = now.positions

    with attach_released(model, namm, rope or NTKRope(), budget=budget) as memory:
        memory.watch(note)
        out = model.generate(prompts, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, **more)
    return out[:, prompts.shape[1] :], kept, memory


@pytest.mark.parametrize("name", RUNS)
def test_golden_runs_of_the_released_code_are_reproduced_from_the_prompt(name: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    facts = {key.removeprefix("cfg/"): golden[key].item() for key in golden.files if key.startswith("cfg/")}
    shape = Shape(
        facts["nh"], facts["nkv"], facts["layers"], facts["hidden"], facts["intermediate"], facts["vocab"],
        facts["rope_theta"], facts["rms_eps"],
    )  # fmt: skip
    weights = {key.removeprefix("w/"): torch.tensor(golden[key]) for key in golden.files if key.startswith("w/")}
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[facts["dtype"]]
    namm = released_namm(*(torch.tensor(golden[key]) for key in ("theta", "norm_mean", "norm_var")))

    rope = NTKRope(factor=float(facts["ntk_factor"]), alpha=float(facts["ntk_alpha"]))
    rounded = facts["dtype"] == "bf16"
    frequencies = rope.frequencies(shape.theta, shape.head_dim, rounded)
    np.testing.assert_array_equal(frequencies, golden["inv_freq_used"])

    prompt = torch.tensor(golden["prompt"].astype(np.int64))[None]
    generated, kept, _ = run(llama(shape, weights, dtype), namm, prompt, facts["GEN"], rope)
    stored = {tuple(map(int, re.findall(r"\d+", key))): golden[key] for key in golden.files if key.startswith("kept/")}
    tokens = golden["generated"].tolist()
    assert set(kept) == set(stored)
    if rounded:  # a CPU without bf16 products adds up in another order: there the slow version says what comes
        slow = ReleasedRun(
            shape, weights, *(torch.tensor(golden[k]) for k in ("theta", "norm_mean", "norm_var")), dtype
        )
        here = slow.generate(prompt[0].tolist(), facts["GEN"])
        if here != tokens:
            tokens, stored = here, {key: slow.kept[key].numpy() for key in stored}
    assert generated[0].tolist() == tokens
    for key, positions in kept.items():
        np.testing.assert_array_equal(positions[0], stored[key])


SHAPES = {"mha": Shape(4, 4, 2), "gqa": Shape(8, 2, 2), "mqa": Shape(4, 1, 3), "odd_head": Shape(2, 1, 2, hidden=96)}


@pytest.mark.parametrize(
    ("shape", "prompt_tokens", "new_tokens", "dtype", "cache_size"),
    [
        ("mha", 100, 20, torch.float32, None),  # no update at all
        ("mha", 512, 30, torch.float32, None),  # an update right after the prompt
        ("gqa", 500, 40, torch.float32, None),  # the first update in decoding
        ("gqa", 1300, 30, torch.float32, None),
        ("mqa", 1530, 30, torch.float32, None),  # two in the prompt, the third in decoding
        ("gqa", 1300, 30, torch.float32, 64),
        pytest.param("mha", 1024, 20, torch.bfloat16, None, marks=pytest.mark.slow),
        pytest.param("gqa", 1500, 50, torch.bfloat16, None, marks=pytest.mark.slow),
        pytest.param("odd_head", 1100, 30, torch.bfloat16, None, marks=pytest.mark.slow),
        pytest.param("gqa", 6011, 200, torch.float32, None, marks=pytest.mark.slow),
        pytest.param("mqa", 6011, 200, torch.bfloat16, None, marks=pytest.mark.slow),
    ],
)
def test_it_equals_the_slow_released_behaviour(
    shape: str, prompt_tokens: int, new_tokens: int, dtype: torch.dtype, cache_size: int | None
) -> None:
    model_shape, seed = SHAPES[shape], prompt_tokens
    weights = random_weights(model_shape, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    flat = torch.randn(4172, generator=generator) * 0.15
    mean = torch.rand(17, generator=generator) * 0.01
    variance = torch.rand(17, generator=generator) * 1e-4 + 1e-6
    prompt = torch.randint(2, 97, (1, prompt_tokens), generator=generator)
    slow = ReleasedRun(model_shape, weights, flat, mean, variance, dtype, cache_size)
    expected = slow.generate(prompt[0].tolist(), new_tokens)

    model = llama(model_shape, weights, dtype)
    generated, kept, memory = run(model, released_namm(flat, mean, variance), prompt, new_tokens, budget=cache_size)

    assert generated[0].tolist() == expected
    assert set(kept) == set(slow.kept)
    assert len(kept) == (prompt_tokens + new_tokens - 1) // 512 * model_shape.layers
    for key, positions in kept.items():
        np.testing.assert_array_equal(positions[0], slow.kept[key])
        assert positions.shape[2] < (cache_size or 512 * (key[0] + 1)) + 1, "the case must evict to test anything"
    assert memory.seen.tolist() == [prompt_tokens + new_tokens - 1]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_left_padded_batch_equals_its_members(dtype: torch.dtype) -> None:
    """The released code cannot batch; here a row keeps and generates what it does alone."""
    generator = torch.Generator().manual_seed(5)
    model = llama(SHAPES["gqa"], random_weights(SHAPES["gqa"], 5), dtype)
    flat = torch.randn(4172, generator=generator) * 0.15
    namm = released_namm(flat, torch.rand(17, generator=generator) * 0.01, torch.full((17,), 1e-4))
    prompts = torch.randint(2, 97, (2, 1030), generator=generator)
    prompts[1, :500] = 0
    mask = torch.ones_like(prompts)
    mask[1, :500] = 0
    together, _, memory = run(model, namm, prompts, 20, attention_mask=mask)
    held = [memory.kept_positions(layer) for layer in range(2)]
    for row, first in enumerate((0, 500)):
        alone, _, own = run(model, namm, prompts[row : row + 1, first:], 20)
        for layer in range(2):
            mine = held[layer][row]
            assert torch.equal(mine[mine >= 0].view(2, -1), own.kept_positions(layer)[0])
        assert torch.equal(together[row], alone[0])


def test_eager_attention_differs_from_fused_attention_by_rounding_only() -> None:
    generator = torch.Generator().manual_seed(3)
    model = llama(SHAPES["gqa"], random_weights(SHAPES["gqa"], 3), torch.float32)
    namm = released_namm(torch.randn(4172, generator=generator) * 0.15, torch.zeros(17), torch.full((17,), 1e-4))
    prompt = torch.randint(2, 97, (1, 1100), generator=generator)
    outputs = []
    for eager in ({}, {"eager_chunk": 128}):
        with attach(model, make_policy("namm", namm=namm, heads="equal", **eager)), torch.inference_mode():
            outputs.append(model(prompt).logits)
    torch.testing.assert_close(*outputs, atol=2e-4, rtol=1e-4)
    assert not torch.equal(*outputs)


def test_the_model_is_as_before_afterwards() -> None:
    model = llama(SHAPES["mha"], random_weights(SHAPES["mha"], 0), torch.float32)
    before = model.model.rotary_emb.inv_freq.clone()
    with attach_released(model, NAMM()):
        assert not torch.equal(model.model.rotary_emb.inv_freq, before)
        assert model.generation_config.prefill_chunk_size == 128
    with pytest.raises(RuntimeError, match="stop"), attach_released(model, NAMM()):
        raise RuntimeError("stop")
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    assert model.generation_config.prefill_chunk_size is None


def test_rotary_frequencies_are_rounded_where_the_released_code_rounds_them() -> None:
    model = llama(SHAPES["mha"], random_weights(SHAPES["mha"], 0), torch.float32)
    used = {}
    for rounded in (None, False, True):
        with scaled_rope(model, NTKRope(bf16_frequencies=rounded)):
            used[rounded] = model.model.rotary_emb.inv_freq.clone()
    assert torch.equal(used[None], used[False])
    assert torch.equal(used[True], used[False].bfloat16().float())
    assert NTKRope().base(500_000.0, 128) == pytest.approx(3_609_793.004)


def test_what_the_mode_cannot_do_is_refused_with_the_reason() -> None:
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
    )  # fmt: skip
    with (
        pytest.raises(AttachError, match=r"'linear'.*rope type 'default'"),
        attach_released(LlamaForCausalLM(config).eval(), NAMM()),
    ):
        pass
    with pytest.raises(ConfigError, match="heads='equal'"):
        make_policy("namm:released", namm=NAMM(), heads="ragged")
    with pytest.raises(ConfigError, match="divide the update interval"):
        make_policy("namm:released", namm=NAMM(), interval=64)
    with pytest.raises(ConfigError, match="factor"):
        NTKRope(factor=0.1)
    with pytest.raises(UnknownNameError, match="namm:released"):
        make_policy("namm:relased", namm=NAMM())
    with pytest.raises(UnknownNameError, match="released"):
        NAMMConfig.preset("realeased")
