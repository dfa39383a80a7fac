"""A model is loaded in a type that the machine computes quickly, unless the user says otherwise."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluations.experiment.models import load_placed
from modalities.pretrained import precision
from namm.errors import ConfigError


def tiny(dtype: object, **options: object) -> LlamaForCausalLM:
    assert not options
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(torch.bfloat16 if dtype == "auto" else dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "emulated", "found"),
    [("auto", True, torch.float32), ("auto", False, torch.bfloat16), ("bfloat16", True, torch.bfloat16)],
)
def test_auto_avoids_what_is_emulated_and_a_wish_is_granted(
    asked: str, emulated: bool, found: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_is_slower", lambda dtype: emulated)
    model = load_placed(tiny, asked, "cpu", 0)
    assert model.dtype is found
    assert not model.training


def test_a_device_that_is_not_there_is_told_before_anything_is_read() -> None:
    def never(**options: object) -> LlamaForCausalLM:
        raise AssertionError("read")

    with pytest.raises(ConfigError, match="device must be"):
        load_placed(never, "auto", "cuda:99", 0)
