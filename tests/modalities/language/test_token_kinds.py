"""Policies that judge by what a token is: who tells them, and what happens where nobody can."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modalities import attach
from modalities.language.token_kinds import token_kinds
from namm.errors import AttachError
from namm.policies import make_policy

WORDS = ["<s>", "</s>", "<pad>", ".", ",", "?!", "a.b", "dog", "runs", "«", "+", "Ġ"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of twelve words."""
    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="dog"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """A tiny Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_kinds_are_read_off_a_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    kinds = token_kinds(tokenizer)
    assert kinds == {"special_ids": (0, 1, 2), "punctuation_ids": (3, 4, 5, 9)}


def test_attach_tells_a_policy_its_tokens_whatever_the_padding_and_the_steps(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Special tokens and punctuation survive, in prompts of different lengths and in what is generated."""
    policy = make_policy("fastgen", interval=16, recovery=0.0, protected_last=0, **token_kinds(tokenizer))
    everything = make_policy(
        "fastgen", interval=16, recovery=0.0, protected_last=0, special_ids=(0, 1, 2, 3, 4, 5), punctuation_ids=(6,)
    )
    ids = torch.randint(0, 12, (2, 20), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    for chosen, kinds in ((policy, {0, 1, 2}), (everything, set(range(6)))):
        with attach(model, chosen) as memory, torch.no_grad():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=14, do_sample=False, eos_token_id=None)
            kept = memory.kept_positions(1)
            for row, padding in enumerate((0, 7)):
                tokens = out[row, padding:].tolist()
                judged = (len(tokens) - 1) // 16 * 16
                mine = [p for p in kept[row, 0].tolist() if 0 <= p < judged]
                assert mine == [p for p in range(judged) if tokens[p] in kinds]


def test_a_model_that_is_called_without_ids_cannot_tell_them(model: LlamaForCausalLM) -> None:
    embedded = model.get_input_embeddings()(torch.zeros(1, 20, dtype=torch.long))
    with attach(model, make_policy("fastgen", interval=16, special_ids=(0,))), pytest.raises(AttachError, match="ids"):
        model(inputs_embeds=embedded)
    with attach(model, make_policy("fastgen", interval=16)) as memory:  # nothing promised, nothing needed
        model(inputs_embeds=embedded)
    assert memory.seen.tolist() == [20]
