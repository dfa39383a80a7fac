"""``sink_window`` with positions within the cache, in real models, against slow references that number them anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from modalities import attach
from modalities.huggingface.attach import cache_of
from namm.errors import AttachError
from namm.policies import make_policy
from namm.policies.base import Policy
from tests.modalities.huggingface.test_rotations import SIZES, llama, model_of

pytestmark = pytest.mark.slow

SINKS, BUDGET, INTERVAL = 4, 12, 16


def policy(renumber: bool = True) -> Policy:
    return make_policy("sink_window", interval=INTERVAL, budget=BUDGET, renumber=renumber)


def text(tokens: int, rows: int = 1) -> Tensor:
    return torch.randint(3, 128, (rows, tokens), generator=torch.Generator().manual_seed(1))


def one_layer() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_hidden_layers": 1}, initializer_range=0.3)).eval()


def held_at(tokens: int) -> list[int]:
    """What the policy holds when so many tokens have been read, the last of them included."""
    judged = (tokens - 1) // INTERVAL * INTERVAL
    kept = list(range(judged)) if judged <= BUDGET else [*range(SINKS), *range(judged - BUDGET + SINKS, judged)]
    return [*kept, *range(judged, tokens)]


@torch.no_grad()
def streamed(model: LlamaForCausalLM, ids: Tensor, prompt: int, renumber: bool = True) -> Tensor:
    """Logits of every token, the prompt in one call and the rest one by one."""
    with attach(model, policy(renumber)) as memory:
        out = model(input_ids=ids[:, :prompt], use_cache=True)
        logits = [out.logits]
        for at in range(prompt, ids.shape[1]):
            out = model(input_ids=ids[:, at : at + 1], past_key_values=cache_of(out), use_cache=True)
            logits.append(out.logits)
        tokens = ids.shape[1]
        if tokens % INTERVAL:
            for layer in range(model.config.num_hidden_layers):
                assert memory.kept_positions(layer)[0].tolist() == [held_at(tokens)] * 2
    return torch.cat(logits, dim=1)


@torch.no_grad()
def rolling_cache(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """The paper's cache: keys as they were before positions, layer by layer, turned anew at every token."""
    inner, config = model.model, model.config
    caches: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in inner.layers]
    logits = []
    for at in range(ids.shape[1]):
        hidden = inner.embed_tokens(ids[:, at : at + 1])
        for layer, (keys, values) in zip(inner.layers, caches, strict=True):
            own, states = layer.self_attn, layer.input_layernorm(hidden)
            query, key, value = (
                linear(states).view(1, 1, -1, own.head_dim).transpose(1, 2)
                for linear in (own.q_proj, own.k_proj, own.v_proj)
            )
            keys.append(key)
            values.append(value)
            cos, sin = inner.rotary_emb(states, torch.arange(len(keys))[None])
            everything = torch.cat(keys, dim=2)
            turned = apply_rotary_pos_emb(everything, everything, cos, sin)[1]
            asked = apply_rotary_pos_emb(query, query, cos[:, -1:], sin[:, -1:])[0]
            group = config.num_attention_heads // config.num_key_value_heads
            turned, seen = (t.repeat_interleave(group, dim=1) for t in (turned, torch.cat(values, dim=2)))
            weights = (asked @ turned.transpose(2, 3) * own.scaling).float().softmax(-1).to(seen.dtype)
            hidden = hidden + own.o_proj((weights @ seen).transpose(1, 2).reshape(1, 1, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if (at + 1) % INTERVAL == 0:
                for states_of in (keys, values):
                    states_of[:] = states_of[:SINKS] + states_of[SINKS - BUDGET :]
        logits.append(model.lm_head(inner.norm(hidden)))
    return torch.cat(logits, dim=1)


def test_one_layer_answers_what_the_stock_model_does_on_sinks_and_window() -> None:
    """Whose keys hang on nothing but their tokens, so that the cache can be read as a text of its own."""
    model, ids = one_layer(), text(150)
    found = streamed(model, ids, prompt=70)
    for tokens in (3, 16, 17, 40, 70, 71, 96, 97, 149, 150):
        held = held_at(tokens)
        with torch.no_grad():
            stock = model(input_ids=ids[:, held], position_ids=torch.arange(len(held))[None]).logits
        torch.testing.assert_close(found[:, tokens - 1], stock[:, -1], atol=2e-4, rtol=1e-3)
    plain = streamed(model, ids, prompt=70, renumber=False)
    torch.testing.assert_close(found[:, :16], plain[:, :16])
    assert (found[:, 100:] - plain[:, 100:]).abs().max() > 0.05


def test_deeper_models_answer_what_the_papers_cache_does() -> None:
    tokens = 120
    model, ids = llama(), text(tokens)
    torch.testing.assert_close(
        streamed(model, ids, prompt=tokens // 2), rolling_cache(model, ids), atol=1e-3, rtol=1e-3
    )


def test_half_precision_stays_as_near_as_it_is_without() -> None:
    """bf16 against its own fp32: renumbering adds no error that grows with the text."""
    ids = text(120)
    exact, half = llama(), llama().bfloat16()
    apart = {}
    for renumber in (False, True):
        gap = streamed(half, ids, 113, renumber).float() - streamed(exact, ids, 113, renumber)
        apart[renumber] = float(gap[:, 32:].square().mean().sqrt())
    assert apart[True] < 1.5 * apart[False]


def test_layers_without_positions_and_of_bounded_reach_go_along() -> None:
    ids = text(60)
    for kind in ("smollm3", "gemma3", "cohere"):
        model = model_of(kind)
        with torch.no_grad(), attach(model, policy()) as memory:
            assert bool(torch.isfinite(model(input_ids=ids, use_cache=True).logits).all())
            assert memory.kept_positions(1)[0].tolist() == [held_at(60)] * 2


def test_models_whose_keys_cannot_be_turned_are_refused() -> None:
    dynamic = llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0})
    for model, why in ((model_of("gpt2"), "no layer .* by rotation"), (dynamic, "turns keys to others")):
        with pytest.raises(AttachError, match=why), attach(model, policy()):
            pass
        with attach(model, policy(renumber=False)):
            pass  # as ever
