"""How positions are encoded is found out by trying, in models that do it in every known way, or refused."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from modalities import attach
from modalities.huggingface.retrieval_heads import divided_by_heads, retrieval_scores
from modalities.huggingface.rotations import rotations_of
from namm import Memory
from namm.errors import AttachError, ConfigError, DataError
from namm.policies import make_policy

SIZES = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OLDER = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}


def llama(**more: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3, **more)).eval()


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**OLDER)).eval()
    if kind == "gptj":
        return GPTJForCausalLM(GPTJConfig(**OLDER, rotary_dim=8)).eval()
    if kind == "neox":
        less = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
        return GPTNeoXForCausalLM(GPTNeoXConfig(**less)).eval()
    if kind == "gemma3":
        kinds = ["sliding_attention", "full_attention"] * 2
        config = Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=16, layer_types=kinds)
        return Gemma3ForCausalLM(config).eval()
    if kind == "smollm3":
        return SmolLM3ForCausalLM(SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1, 0])).eval()
    return CohereForCausalLM(CohereConfig(**SIZES)).eval() if kind == "cohere" else llama()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "widths", "interleaved"),
    [
        ("llama", [8] * 4, False), ("gpt2", [0, 0], False), ("gptj", [8, 8], True), ("neox", [2] * 4, False),
        ("gemma3", [16] * 4, False), ("smollm3", [8, 0, 8, 0], False), ("cohere", [8] * 4, True),
    ],
)  # fmt: skip
def test_the_rotation_of_every_layer_is_found(
    kind: str, widths: list[int], interleaved: bool, dtype: torch.dtype
) -> None:
    model = model_of(kind).to(dtype)
    found = rotations_of(model)
    assert [one.width for one in found] == widths
    assert all(one.interleaved == interleaved for one in found if one.width)
    if kind == "gemma3":  # layers of bounded reach have frequencies of their own
        assert float(found[0].frequencies[1]) != pytest.approx(float(found[1].frequencies[1]))


def test_rotations_that_change_or_are_unknown_are_refused() -> None:
    dynamic = llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0})
    with pytest.raises(AttachError, match="on the length"):
        rotations_of(dynamic)
    turning = llama()
    inner = turning.model.layers[2].self_attn.k_proj
    inner.register_forward_hook(lambda _m, _i, out: out * torch.arange(1, out.shape[1] + 1)[None, :, None])
    with (
        pytest.raises(AttachError, match=r"Layer 2 .* not known"),
        attach(turning, make_policy("expected_attention", interval=16, budget=8)),
    ):
        pass
    with attach(turning, make_policy("keydiff", interval=16, budget=8)):
        pass  # which does not ask


def test_retrieval_scores_are_the_gathered_attention_of_mean_states() -> None:
    """Read off the model's own layers, slowly."""
    model = llama()
    text = torch.randint(3, 128, (1, 40), generator=torch.Generator().manual_seed(1))
    found = retrieval_scores(model, [text[0].tolist()], length=30)
    with torch.no_grad():
        hidden = model(text, output_hidden_states=True).hidden_states
        for index, layer in enumerate(model.model.layers):
            states = layer.input_layernorm(hidden[index])
            query = layer.self_attn.q_proj(states).view(40, 4, 8).mean(0)
            key = layer.self_attn.k_proj(states).view(40, 2, 8).mean(0)
            cos, sin = model.model.rotary_emb(states, torch.arange(30)[None])
            query, key = (t[None, :, None].expand(-1, -1, 30, -1) for t in (query, key))
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            for head in range(2):
                areas = []
                for mine in (2 * head, 2 * head + 1):
                    weights = (key[0, head] @ query[0, mine, -1] / math.sqrt(8)).softmax(0)
                    areas.append(float(weights.cumsum(0).mean()))
                assert float(found[index, head]) == pytest.approx(sum(areas) / 2, rel=1e-4)
    with pytest.raises(DataError, match="at least one token"):
        retrieval_scores(model, [])


def test_retrieval_heads_hold_everything_and_streaming_heads_their_ends() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    budgets = divided_by_heads(scores, budget=45, tokens=80, sinks=4, recent=16)
    assert budgets == ((20, 80), (60, 20))  # the last 40 slots go to the second best
    policy = make_policy("sink_window", interval=16, head_budgets=budgets)
    memory = Memory(policy, depth=2)
    for layer in range(2):
        memory.attend(layer, *torch.randn(3, 1, 2, 80, 8, generator=torch.Generator().manual_seed(0)))
    held = [[[p for p in head if p >= 0] for head in memory.kept_positions(layer)[0].tolist()] for layer in range(2)]
    assert held[0] == [[*range(4), *range(64, 80)], list(range(80))]
    assert held[1] == [[*range(4), *range(24, 80)], [*range(4), *range(64, 80)]]
    with pytest.raises(ConfigError, match="streaming head needs 20"):
        divided_by_heads(scores, budget=19, tokens=80, sinks=4, recent=16)
