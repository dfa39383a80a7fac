"""An open_clip vision transformer as Hugging Face's `CLIPVisionModel`: the same weights under other names.

So a tower trained with open_clip serves in any of transformers' vision-language models, and the matching text tower can
judge its frames. What open_clip can do and `CLIPVisionModel` cannot is refused.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from namm.errors import ConfigError

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModel

_NAMES = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^conv1\.weight$", "embeddings.patch_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_1\.", r"encoder.layers.\1.layer_norm1."),
    (r"^transformer\.resblocks\.(\d+)\.ln_2\.", r"encoder.layers.\1.layer_norm2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
)
_JOINT = re.compile(r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$")
_NOT_NEEDED = {"proj"}  # from CLIP's joint space only; a language model reads what comes before


def to_huggingface(visual: nn.Module) -> CLIPVisionModel:
    """The `CLIPVisionModel` that computes what `visual` computes.

    Args:
        visual: the `visual` part of an open_clip model that is a plain vision transformer read at its class token.

    Raises:
        ConfigError: if `CLIPVisionModel` cannot compute the same.
    """
    from transformers import CLIPVisionModel

    state = _renamed(visual)
    model = CLIPVisionModel(_config(visual))
    # Older transformers nest the encoder under `vision_model`.
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    missing = model.load_state_dict({prefix + name: tensor for name, tensor in state.items()}, strict=False)
    wanted = [name for name in missing.missing_keys if not name.endswith("position_ids")]
    if wanted or missing.unexpected_keys:
        raise ConfigError(
            f"expected the weights of a plain vision transformer, found {missing.unexpected_keys[:3]} "
            f"and lack {wanted[:3]}; convert a ViT such as ViT-L-14-336"
        )
    return model.eval()


def _renamed(visual: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in visual.state_dict().items():
        joint = _JOINT.match(name)
        if joint:
            for part, which in zip(tensor.chunk(3), "qkv", strict=True):
                state[f"encoder.layers.{joint[1]}.self_attn.{which}_proj.{joint[2]}"] = part.clone()
        elif name not in _NOT_NEEDED:
            for pattern, replacement in _NAMES:
                name, changed = re.subn(pattern, replacement, name)
                if changed:
                    break
            state[name] = tensor.clone()
    return state


def _config(visual: Any) -> CLIPVisionConfig:
    """Any: open_clip types none of its parts, and what lacks one of them is refused here."""
    from transformers import CLIPVisionConfig

    try:
        block = visual.transformer.resblocks[0]
        patch, width = visual.conv1.kernel_size[0], visual.conv1.out_channels
        height, across = visual.image_size
        pooled, activation = visual.pool_type, block.mlp.gelu
        heads, eps, hidden = block.attn.num_heads, block.ln_1.eps, block.mlp.c_fc.out_features
    except AttributeError as error:
        raise ConfigError(
            f"expected open_clip's own vision transformer, found {type(visual).__name__} ({error}); "
            "convert a ViT such as ViT-L-14-336"
        ) from error
    if pooled != "tok" or height != across or visual.attn_pool is not None:
        raise ConfigError(
            f"expected a square image read at its class token, found {height} x {across} pixels "
            f"and pooling {pooled!r}; convert a ViT such as ViT-L-14-336"
        )
    scales = [part for part in (block.ls_1, block.ls_2) if not isinstance(part, nn.Identity)]
    if scales or isinstance(visual.ln_pre, nn.Identity):
        raise ConfigError(
            "expected a transformer with a norm before it and no layer scale, found others; "
            "convert a ViT such as ViT-L-14-336"
        )
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=heads,
        image_size=height,
        patch_size=patch,
        hidden_act=_activation(activation),
        layer_norm_eps=eps,
        projection_dim=visual.output_dim,
    )


def _activation(module: nn.Module) -> str:
    """Found by what it computes: open_clip and transformers have several classes for the same function."""
    probe = torch.linspace(-3, 3, 61)
    known: dict[str, Any] = {
        "gelu": nn.functional.gelu(probe),
        "quick_gelu": probe * torch.sigmoid(1.702 * probe),
        "gelu_pytorch_tanh": 0.5 * probe * (1 + torch.tanh(math.sqrt(2 / math.pi) * (probe + 0.044715 * probe**3))),
    }
    for name, values in known.items():
        if torch.allclose(module(probe), values, atol=1e-6):
            return name
    raise ConfigError(
        f"expected one of the activations {', '.join(known)}, found {module}; convert a ViT such as ViT-L-14-336"
    )
