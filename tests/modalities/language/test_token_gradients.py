"""Derivatives by token against a bias that is really added to the logits, and differences of the loss itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM

from modalities.language.token_gradients import token_gradients
from namm.errors import ConfigError

CHUNK, TOKENS = 8, 37
BIAS: dict[int, torch.Tensor] = {}


def _biased(module, query, key, value, attention_mask, scaling, **_):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    tokens = query.shape[2]
    rows = BIAS[module.layer_idx].repeat_interleave(CHUNK, 1)[:, :tokens].repeat_interleave(groups, 0)
    logits = query @ key.transpose(-1, -2) * scaling + rows
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    out = logits.masked_fill(~seen, -torch.inf).softmax(-1) @ value
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("biased_for_a_test", _biased)
AttentionMaskInterface.register("biased_for_a_test", lambda *_, **__: None)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("at_zero", [True, False])
def test_equals_the_derivative_of_a_bias(model: LlamaForCausalLM, at_zero: bool) -> None:
    """At zero, where nothing is really added, and where it is."""
    ids, wanted = torch.randint(60, (TOKENS,)), torch.zeros(TOKENS, dtype=torch.bool)
    wanted[[5, 20, 36]] = True
    chunks = -(-(TOKENS - 1) // CHUNK)
    bias = torch.zeros(2, 2, chunks, TOKENS - 1) if at_zero else -4 * torch.rand(2, 2, chunks, TOKENS - 1)
    found, loss = token_gradients(model, ids, wanted, CHUNK, None if at_zero else bias)
    assert all(weight.requires_grad for weight in model.parameters())
    for layer in range(2):
        BIAS[layer] = bias[layer].clone().requires_grad_()
    model.set_attn_implementation("biased_for_a_test")
    logits = model(input_ids=ids[None, :-1]).logits[0]
    expected = cross_entropy(logits[wanted[1:]], ids[1:][wanted[1:]], reduction="sum")
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for layer in range(2):
        torch.testing.assert_close(found[layer], BIAS[layer].grad, rtol=1e-4, atol=1e-6)
    assert float(found.abs().sum()) > 0


def test_something_must_be_wanted(model: LlamaForCausalLM) -> None:
    wanted = torch.zeros(9, dtype=torch.bool)
    with pytest.raises(ConfigError, match="found none"):
        token_gradients(model, torch.arange(9), wanted, CHUNK)
