"""What is wrapped around a model is looked through; where that cannot be, the message names what to attach."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import nn

from modalities import attach
from modalities.conformance.tiny_models import tiny_model
from modalities.huggingface.wrappers import unwrapped
from namm.errors import AttachError
from namm.policies import make_policy

IDS = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(1))


def forgetting() -> Any:
    return make_policy("h2o", interval=16, budget=10, protected_last=4)


def answers(wrapped: Any, inner: Any = None) -> list[torch.Tensor]:
    """Logits of one call, of a second one that goes on, and generated tokens; with what was held."""
    with torch.no_grad(), attach(wrapped, forgetting()) as memory:
        called = wrapped if inner is None else inner
        first = called(input_ids=IDS, use_cache=True)
        held = memory.slots().clone()
        second = called(input_ids=IDS[:, :5], past_key_values=first.past_key_values)
        uncached = called(input_ids=IDS, use_cache=False)
        assert uncached.past_key_values is None
        generated = getattr(called, "generate", None) or called.module.generate
        tokens = generated(input_ids=IDS, max_new_tokens=6, do_sample=False)
    return [first.logits, held, second.logits, tokens]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"]])
def test_peft_adapters_are_as_the_model_that_they_are_merged_into(targets: list[str]) -> None:
    base = tiny_model("llama")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=targets, init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).eval()
    found = answers(adapted)
    with torch.no_grad():
        before = adapted(input_ids=IDS).logits
        with attach(adapted, make_policy("full", interval=16)):
            torch.testing.assert_close(adapted(input_ids=IDS).logits, before, atol=1e-4, rtol=1e-4)
        assert torch.equal(adapted(input_ids=IDS).logits, before)
    merged = adapted.merge_and_unload()
    expected = answers(merged)
    torch.testing.assert_close(found[0], expected[0], atol=1e-3, rtol=1e-3)
    assert torch.equal(found[3], expected[3])
    assert not any(module._forward_pre_hooks for module in adapted.modules())


def test_virtual_tokens_of_a_prompt_are_read_and_a_prefix_of_keys_is_refused() -> None:
    tuned = peft.get_peft_model(tiny_model("llama"), peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=5)).eval()
    with torch.no_grad():
        stock = tuned(input_ids=IDS).logits
        with attach(tuned, make_policy("full", interval=16)) as memory:
            torch.testing.assert_close(tuned(input_ids=IDS).logits, stock, atol=1e-4, rtol=1e-4)
            assert memory.seen.tolist() == [45, 45]
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    prefixed = peft.get_peft_model(tiny_model("llama"), config).eval()
    with attach(prefixed, make_policy("full")), pytest.raises(AttachError, match="never seen"):
        prefixed(input_ids=IDS)


def test_a_model_in_data_parallel_is_the_model() -> None:
    model = tiny_model("llama")
    assert_same(answers(nn.DataParallel(model)), answers(model))


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_a_compiled_model_is_the_model_whenever_it_was_compiled(before: bool) -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    expected = answers(model)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        stock = compiled(IDS).logits if before else model(IDS).logits
        assert_same(answers(compiled), expected)
        assert_same(answers(model, compiled), expected)
        torch.testing.assert_close(compiled(IDS).logits, stock)


def test_what_cannot_be_looked_through_names_what_to_attach() -> None:
    model = tiny_model("llama")

    class Reward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.lm = nn.Linear(2, 2), model

    spread = nn.DataParallel(model)
    spread.device_ids = [0, 1]
    for wrapped, said in (
        (Reward(), r"found Reward.*attach to its \.lm"),
        (SimpleNamespace(model=model), r"attach to its \.model"),
        (spread, r"devices \[0, 1\].*Attach to its \.module"),
        (3, "found int; write an adapter"),
        (nn.Linear(2, 2), "found Linear; write an adapter"),
    ):
        with pytest.raises(AttachError, match=said), attach(wrapped, make_policy("full")):
            pass
    assert unwrapped(nn.DataParallel(model))[0] is model
