"""A tower converted from open_clip gives the same features in every layer, and what cannot be converted is refused."""

from __future__ import annotations

import pytest
import torch

from modalities.vision.clip_tower import to_huggingface
from namm.errors import ConfigError

open_clip = pytest.importorskip("open_clip")

TINY = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0}


def make(vision: dict, quick_gelu: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu)
    for parameter in model.visual.parameters():  # also biases and norms, which begin at 0 and 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.visual.eval()


@pytest.mark.parametrize("quick_gelu", [False, True])
@torch.no_grad()
def test_every_layer_is_the_same(quick_gelu: bool) -> None:
    """A swapped query and key, another epsilon or activation would show in some layer."""
    visual = make(TINY, quick_gelu)
    tower = to_huggingface(visual)
    pixels = torch.randn(3, 3, 32, 32)
    ours = tower(pixels, output_hidden_states=True)
    theirs = visual.forward_intermediates(pixels, normalize_intermediates=False)["image_intermediates"]
    assert len(theirs) == 3
    for mine, other in zip(ours.hidden_states[1:], theirs, strict=True):
        torch.testing.assert_close(mine[:, 1:], other.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.pooler_output @ visual.proj, visual(pixels), atol=1e-5, rtol=1e-5)


def test_the_weights_are_copies() -> None:
    """Training one must not change the other."""
    visual = make(TINY)
    tower = to_huggingface(visual)
    theirs = {tensor.data_ptr() for tensor in visual.parameters()}
    assert not theirs & {tensor.data_ptr() for tensor in tower.parameters()}


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({**TINY, "layers": (1, 1, 1, 1), "width": 16, "head_width": 16}, "open_clip's own vision transformer"),
        ({**TINY, "pool_type": "avg"}, "pooling 'avg'"),
        ({**TINY, "image_size": (32, 64)}, "32 x 64"),
        ({**TINY, "ls_init_value": 0.1}, "layer scale"),
        ({**TINY, "no_ln_pre": True}, "norm before it"),
        ({**TINY, "attentional_pool": True}, "class token"),
    ],
)
def test_other_towers_are_refused(vision: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        to_huggingface(make(vision))
