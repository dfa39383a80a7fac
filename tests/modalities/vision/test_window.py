"""How far a window reaches, what stretches it, and that nobody runs past it without a word."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modalities.vision.window import check_window, linear_factor, stretched, window_of
from namm.errors import AttachError, ConfigError
from tests.modalities.vision.tiny_qwen import tiny_qwen_model
from tests.modalities.vision.tiny_video import tiny_video_model

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}


def test_the_factor_is_that_of_the_demonstration() -> None:
    assert [linear_factor(frames, 144, 4096) for frames in (8, 16, 32, 48, 64)] == [1.0, 1.0, 2.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="at least one frame"):
        linear_factor(0, 144, 4096)


def test_stretching_is_transformers_own_linear_scaling() -> None:
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    scaled = LlamaConfig(**SMALL, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    wanted = LlamaForCausalLM(scaled).eval()
    wanted.load_state_dict(plain.state_dict())
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        before = plain(ids).logits
        with stretched(plain, 2.0):
            assert torch.allclose(plain(ids).logits, wanted(ids).logits, atol=1e-6)
            assert not torch.allclose(plain(ids).logits, before, atol=5e-5)
        assert torch.equal(plain(ids).logits, before)
    assert (window_of(wanted).tokens, window_of(wanted).scaling) == (4096, "linear 2.0")
    with pytest.raises(AttachError, match="scales its rotary positions itself"), stretched(wanted, 2.0):
        pass
    with pytest.raises(ConfigError, match="factor of 1 or more"), stretched(plain, 0.5):
        pass


def test_a_prompt_past_the_window_is_told_of() -> None:
    model = tiny_video_model()
    assert check_window(model, 4096) is None
    with pytest.warns(UserWarning, match=r"trained to read 4096 tokens.*given 4700, stretched by 1.*by 2 \(linear\)"):
        check_window(model, 4700)
    assert check_window(model, 4700, 2.0) is None
    model.config.text_config.factor, model.config.text_config.type = 2.0, "linear"  # as the 7B checkpoint has it
    assert window_of(model).facts() == {"window": 4096, "rope": "default", "rope_unread": "linear 2.0"}
    with pytest.warns(UserWarning, match="does not read it"):
        check_window(model, 4700)


def test_a_tower_keeps_its_own_positions() -> None:
    model = tiny_qwen_model()
    towers = [part for part in model.model.visual.modules() if hasattr(part, "inv_freq")]
    before = [part.inv_freq.clone() for part in towers]
    text = next(part for part in model.get_decoder().modules() if hasattr(part, "inv_freq"))
    own = text.inv_freq.clone()
    with stretched(model, 4.0):
        assert all(torch.equal(part.inv_freq, kept) for part, kept in zip(towers, before, strict=True))
        assert torch.allclose(text.inv_freq * 4, own)
    assert torch.equal(text.inv_freq, own)
