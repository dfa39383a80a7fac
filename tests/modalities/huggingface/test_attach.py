"""Attached models: stock generate(), exact with everything kept, honest about what it cannot do, gone on exit."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    DecisionTransformerConfig,
    DecisionTransformerModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from modalities import attach
from modalities.conformance.tiny_models import tiny_model
from modalities.huggingface.attach import IMPLEMENTATION, cache_of
from namm import NAMM
from namm.errors import AttachError, UnknownNameError
from namm.padded import PaddedStore
from namm.policies import make_policy

VOCABULARY = 61


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.4, pad_token_id=0, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.4,
        pad_token_id=0, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def prompts(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Left-padded token ids with their mask."""
    longest = max(lengths)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (len(lengths), longest), generator=generator)
    mask = (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("interval", [None, 16])
def test_full_cache_generates_what_the_stock_model_generates(build: type, interval: int | None) -> None:
    model = build()
    inputs = prompts([40, 23, 33])
    stock = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    with attach(model, make_policy("full", interval=interval)) as memory:
        ours = model.generate(**inputs, max_new_tokens=20, do_sample=False)
        assert memory.seen.tolist() == [59, 42, 52]  # the last token is never fed back
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_full_cache_equals_stock_logits_and_the_model_is_untouched_after(build: type) -> None:
    model = build()
    before = copy.deepcopy(model.config.to_dict())
    inputs = prompts([50])
    with torch.no_grad():
        stock = model(**inputs).logits
        with attach(model, make_policy("full", interval=16)):
            torch.testing.assert_close(model(**inputs).logits, stock, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model(**inputs).logits, stock, atol=0, rtol=0)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.to_dict() == before
    assert not model._forward_pre_hooks
    assert not any("namm" in name for module in model.modules() for name in vars(module))


def test_the_model_is_untouched_after_an_exception() -> None:
    model = llama()
    with pytest.raises(KeyboardInterrupt), attach(model, NAMM()):
        raise KeyboardInterrupt
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("build", [llama, pytest.param(gpt2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["window", "random", "h2o", "namm"])
def test_batched_generation_under_eviction_equals_each_prompt_alone(build: type, name: str) -> None:
    model = build()
    lengths = [40, 23, 33]
    inputs = prompts(lengths)
    options: dict[str, object] = {"interval": 16, "protected_last": 4}
    if name == "namm":
        options |= {"namm": NAMM(flat=torch.randn(4172, generator=torch.Generator().manual_seed(5)) * 0.3)}
        options |= {"statistics": "sequence"}
    else:
        options |= {"budget": 12}
    with attach(model, make_policy(name, **options)) as memory:
        together = model.generate(**inputs, max_new_tokens=25, do_sample=False)
        assert memory.report().evicted > 0
        held = [int(memory.slots()[row].sum()) for row in range(3)]
        for row in range(3):
            if name == "random" and row:
                continue  # its draws belong to the row
            alone = {key: value[row : row + 1, -lengths[row] :] for key, value in inputs.items()}
            single = model.generate(**alone, max_new_tokens=25, do_sample=False)
            assert torch.equal(single[0, lengths[row] :], together[row, 40:])
            assert int(memory.slots().sum()) == held[row]


def test_positions_count_tokens_seen_and_turns_continue() -> None:
    """Feeding in chunks through the returned cache equals one call: RoPE sees absolute positions after eviction."""
    model = llama()
    ids = prompts([90])["input_ids"]
    policy = make_policy("window", interval=16, budget=8)
    with attach(model, policy), torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :37], use_cache=True)
        assert first.past_key_values.get_seq_length() == 37
        second = model(ids[:, 37:], past_key_values=first.past_key_values, use_cache=True)
    chunks = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(chunks, whole, atol=2e-5, rtol=1e-4)


def test_a_mask_that_hides_what_the_memory_holds_is_refused() -> None:
    """What was real in an earlier call cannot become padding in a later one, nor the other way round."""
    model, ids, mask = llama(), torch.arange(12)[None].repeat(2, 1), torch.ones(2, 12, dtype=torch.long)
    mask[1, :3] = 0
    for place, found in (((0, 5), "12, 10"), ((1, 1), "13, 11")):
        with attach(model, make_policy("window", interval=16, budget=8)):
            output = model(ids, attention_mask=mask, use_cache=True)
            changed = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
            more = {"input_ids": ids[:, :1], "past_key_values": output.past_key_values}
            model(**more, attention_mask=changed)
            changed = torch.cat([changed, torch.ones(2, 1, dtype=torch.long)], dim=1)
            changed[place] ^= 1
            with pytest.raises(AttachError, match=rf"shows the \[13, 10\] tokens.*found \[{found}\]"):
                model(**more, attention_mask=changed)


def test_beam_search_carries_the_memory_along() -> None:
    model = llama()
    inputs = prompts([30])
    stock = model.generate(**inputs, max_new_tokens=10, num_beams=3, do_sample=False)
    with attach(model, make_policy("full", interval=16)):
        assert torch.equal(model.generate(**inputs, max_new_tokens=10, num_beams=3, do_sample=False), stock)


@pytest.mark.slow
@pytest.mark.parametrize("build", [llama, pytest.param(gpt2, marks=pytest.mark.slow)])
def test_a_padded_store_generates_what_a_packed_one_does(build: type) -> None:
    """Left-padded prompts whose updates fall on different steps, and beams that copy and drop rows."""
    model = build()
    namm = NAMM(flat=torch.randn(4172, generator=torch.Generator().manual_seed(5)) * 0.3)
    given = {"interval": 16, "protected_last": 4, "statistics": "sequence"}
    for lengths, beams in ([40, 23, 33], 1), ([30], 3):
        asked = {**prompts(lengths), "max_new_tokens": 40, "do_sample": False, "num_beams": beams}
        with attach(model, namm, **given) as packed:
            expected = model.generate(**asked)
        with attach(model, namm, store="padded", **given) as padded:
            assert torch.equal(model.generate(**asked), expected)
        assert any(isinstance(layer.cache.store, PaddedStore) for layer in padded.layers.values())
        assert torch.equal(padded.slots(), packed.slots())
    with pytest.raises(UnknownNameError, match="padded"), attach(model, namm, store="paded"):
        pass


def test_a_decision_transformers_encoder_is_driven_token_by_token() -> None:
    torch.manual_seed(0)
    config = DecisionTransformerConfig(
        state_dim=3, act_dim=2, hidden_size=32, n_layer=3, n_head=1, max_ep_len=64, bos_token_id=None, eos_token_id=None
    )
    model = DecisionTransformerModel(config).eval()
    embeddings = torch.randn(2, 60, 32)
    zeros = torch.zeros(2, 60, dtype=torch.long)
    with torch.no_grad():
        stock = model.encoder(inputs_embeds=embeddings, position_ids=zeros).last_hidden_state
        with attach(model.encoder, make_policy("full", interval=16)) as memory:
            cache, outputs = None, []
            for start in range(0, 60, 3):
                step = slice(start, start + 3)
                out = model.encoder(
                    inputs_embeds=embeddings[:, step],
                    position_ids=zeros[:, step],
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = out.past_key_values
                outputs.append(out.last_hidden_state)
            assert memory.seen.tolist() == [60, 60]
    torch.testing.assert_close(torch.cat(outputs, 1), stock, atol=1e-5, rtol=1e-4)
    with pytest.raises(AttachError, match=r"\.encoder"), attach(model, NAMM()):
        pass


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bloom", "own code"),  # adds its position biases itself
        ("diffllama", "two attentions in one layer"),
        ("doge", "mask of its own"),
        ("deepseek_v32", "DynamicIndexedLayer"),
        ("recurrent_gemma", "state outside the cache"),
        ("mamba", "nothing to forget"),
        ("minimax", "cache of its own"),
        ("prophetnet", "encoder"),
        ("openai-gpt", "cannot cache"),
    ],
)
def test_models_that_would_be_silently_wrong_are_refused(family: str, reason: str) -> None:
    model = tiny_model(family)
    ids = torch.arange(10, 30)[None]
    with pytest.raises(AttachError, match=reason), attach(model, make_policy("full")):
        model(input_ids=ids)
    assert model.config._attn_implementation != IMPLEMENTATION


def test_a_model_of_another_mask_is_refused_whoever_makes_the_mask() -> None:
    ids = torch.arange(10, 30)[None]
    bidirectional = tiny_model("llama")
    bidirectional.config.is_causal = False
    with pytest.raises(AttachError, match="attends both ways"), attach(bidirectional, NAMM()):
        bidirectional(ids)
    model = tiny_model("llama")
    with attach(model, NAMM()), pytest.raises(AttachError, match="mask of its own"):
        model(ids, attention_mask=torch.zeros(1, 1, 20, 20))
    model.train().model.layers[0].self_attn.attention_dropout = 0.1
    with attach(model, NAMM()), pytest.raises(AttachError, match=r"model.eval\(\)"):
        model(ids)


def test_a_model_called_past_the_attachment_is_refused() -> None:
    model = tiny_model("llama")
    with attach(model, NAMM()), pytest.raises(AttachError, match="past the attached model"):
        model.model(torch.arange(10, 30)[None])


def test_recurrent_layers_refuse_padding_between_the_tokens_of_a_row() -> None:
    model = tiny_model("jamba")
    ids, mask = torch.arange(10, 26).view(2, 8), torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:10] = 0
    with attach(model, make_policy("full")) as memory:
        cache = cache_of(model(ids, attention_mask=mask[:, :8], use_cache=True))
        with pytest.raises(AttachError, match="rows of equal length"):
            model(ids[:, :4], attention_mask=mask, past_key_values=cache)
    assert memory.report().beside_bytes > 0


def test_copied_rows_take_their_recurrent_state_along() -> None:
    """A memory forked past the cache object (prompts that share a beginning) would leave it behind."""
    model = tiny_model("jamba")
    ids = torch.arange(10, 34).view(2, 12)
    with torch.no_grad(), attach(model, make_policy("full")) as memory:
        whole = model(torch.cat([ids[[1, 1]], torch.tensor([[40], [41]])], 1)).logits[:, -1]
        cache = cache_of(model(ids, use_cache=True))
        memory.select_sequences(torch.tensor([1, 1]))
        forked = model(torch.tensor([[40], [41]]), past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(forked, whole, atol=1e-4, rtol=1e-4)


def test_foreign_caches_and_double_attachment_are_refused() -> None:
    model = llama()
    ids = prompts([20])["input_ids"]
    stock = model(ids, use_cache=True).past_key_values
    with attach(model, NAMM()):
        with pytest.raises(AttachError, match="never seen"):
            model(ids, past_key_values=stock)
        with pytest.raises(AttachError, match="attached already"), attach(model, NAMM()):
            pass
    with pytest.raises(AttachError, match="make_policy"), attach(model, make_policy("full"), interval=16):
        pass


def test_a_call_with_gradients_may_follow_one_in_inference_mode() -> None:
    """What calls share (the mask of a few new tokens) must not be a tensor that autograd refuses."""
    model, ids = llama().double(), prompts([7])["input_ids"]  # no other test has asked for such a mask
    for mode in (torch.inference_mode(), torch.enable_grad()):
        with attach(model, make_policy("full")), mode:
            logits = model(ids).logits
    logits.sum().backward()
    assert model.get_input_embeddings().weight.grad is not None
