"""Tiny random models of every causal language model family that the installed transformers holds.

A family's own configuration class is taken and its sizes are made small by the names that sizes have; a few families
need more words. Random weights are wide enough that attention is far from uniform.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from namm.errors import UnknownNameError, did_you_mean

VOCABULARY = 67
LAYERS = 4
WINDOW = 12
"""Tokens of sliding windows, so few that short prompts leave them."""
SCALE = 0.25
"""Standard deviation of weights."""

_NAMES: tuple[tuple[int, str], ...] = (
    (32, "hidden_size n_embd d_model dim embed_dim embedding_size word_embed_proj_dim width lru_width emb_dim"),
    (48, "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim moe_intermediate_size ffn_hidden_size"),
    (48, "shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size dense_intermediate_size"),
    (48, "moe_shared_expert_intermediate_size intermediate_size_mlp dim_ff dense_ff_intermediate_size"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers"),
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads linear_num_heads"),
    (4, "mamba_d_conv conv_L_cache linear_conv_kernel_dim index_n_heads qk_rope_head_dim num_swa_attention_heads"),
    (4, "swa_num_attention_heads attention_heads"),
    (2, "num_key_value_heads num_kv_heads num_experts_per_tok moe_topk moe_k top_k_experts linear_num_key_heads"),
    (2, "num_global_key_value_heads swa_num_key_value_heads moe_top_k n_mamba_heads max_window_layers"),
    (8, "head_dim global_head_dim swa_head_dim v_head_dim qk_nope_head_dim linear_key_head_dim linear_value_head_dim"),
    (8, "mamba_d_state ssm_state_size state_size d_kv kv_channels rotary_dim index_head_dim swa_v_head_dim"),
    (8, "attention_head_dim hidden_size_per_layer_input mamba_num_heads mamba_n_heads mamba_head_dim mamba_d_head"),
    (16, "q_lora_rank kv_lora_rank attention_chunk_size o_lora_rank"),
    (1, "n_group topk_group n_shared_experts num_shared_experts first_k_dense_replace mamba_n_groups n_groups"),
    (WINDOW, "sliding_window swa_window_size window_size local_attention sliding_window_size attention_window_size"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
)
SIZES = {name: size for size, names in _NAMES for name in names.split()}
"""The size that each name gets."""

WORDS: dict[str, Any] = {
    "is_decoder": True,
    "use_sliding_window": True,
    "use_cache": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
"""What every configuration is given that knows the name."""

_MIXED = {"layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2)}
_INDEXED = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64,
    "indexer_compress_ratio": 8,
}  # fmt: skip
_THREE_DIMENSIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}

MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "dory": {"sliding_window": 512},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n": {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "granitemoehybrid": _MIXED,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "longcat_flash": {"num_key_value_heads": 4, "num_layers": LAYERS // 2, "head_dim": 4},
    "mamba2": {"head_dim": 16},
    "qwen2_vl": _THREE_DIMENSIONS,
    "qwen2_5_vl": _THREE_DIMENSIONS,
    "qwen4_exp": _INDEXED,
    "qwen4_exp_text": _INDEXED,
    "reformer": {"axial_pos_embds": False},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {"attn_layer_period": 3, "attn_layer_offset": 2, "num_hidden_layers": 6},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * (LAYERS // 2)},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs beyond that."""

_CALLED = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
_INDEXED_PLACES = {"image_token_index": 3, "video_token_index": 4}
_SMALL_TOWER = {"image_size": 16, "patch_size": 4, "projection_dim": 32}
_LLAVA = {"whole": _INDEXED_PLACES, "vision_config": _SMALL_TOWER}
_QWEN_TOWER = {"depth": 2, "patch_size": 4, "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 16}

SEEING: dict[str, dict[str, dict[str, Any]]] = {
    "gemma3": {"whole": {**_INDEXED_PLACES, "mm_tokens_per_image": 4}, "vision_config": _SMALL_TOWER},
    "idefics3": {"whole": {"image_token_id": 3}, "vision_config": _SMALL_TOWER},
    "internvl": {"whole": {"image_token_id": 3}, "vision_config": {"image_size": [16, 16], "patch_size": [4, 4]}},
    "llava": _LLAVA,
    "llava_next_video": {**_LLAVA, "whole": {**_INDEXED_PLACES, "image_grid_pinpoints": [[16, 16]]}},
    "llava_onevision": {**_LLAVA, "whole": {**_INDEXED_PLACES, "image_grid_pinpoints": [[16, 16]]}},
    "paligemma": {**_LLAVA, "whole": {**_INDEXED_PLACES, "projection_dim": 32}},
    "qwen2_5_vl": {"whole": _CALLED, "vision_config": _QWEN_TOWER},
    "qwen2_vl": {"whole": _CALLED, "vision_config": _QWEN_TOWER},
    "qwen3_vl": {
        "whole": _CALLED,
        "vision_config": {**_QWEN_TOWER, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    },
    "smolvlm": {"whole": {"image_token_id": 3}, "vision_config": _SMALL_TOWER},
    "video_llava": _LLAVA,
    "vipllava": {**_LLAVA, "whole": {**_INDEXED_PLACES, "vision_feature_layers": [-2, -1, 1]}},
}
"""What families of pictures are given for their whole configuration and that of their tower, so that a picture takes
few tokens, and those that stand for it are in the vocabulary."""

UNBUILT = {
    "gemma3n": "its pictures need timm, which is not installed; see gemma3n_text",
    "blt": "four models in one (bytes, patches); no single decoder to make small",
    "gemma4_assistant": "an assistant that reads another model's keys; not a model by itself",
    "gemma4_unified_assistant": "an assistant that reads another model's keys; not a model by itself",
    "moss_transcribe_diarize": "transcribes sound; its decoder is not offered by itself",
    "musicgen": "continues sound, several code books a step; not a text decoder",
    "musicgen_melody": "continues sound, several code books a step; not a text decoder",
}
"""Families of which no small text decoder is made, and why."""


def family_names() -> list[str]:
    """Model types of all causal language models that transformers holds."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_model(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of a family, in evaluation mode.

    Args:
        family: A model type of :func:`family_names`, such as ``gemma2``, or one of pictures and text (``llava``).
        seed: Of its weights.
        changes: Fields of its (text) configuration.

    Raises:
        UnknownNameError: No such family.
    """
    seeing = family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not seeing:
        known = did_you_mean(family, family_names(), listed="docs/models.md")
        raise UnknownNameError(f"Unknown model family {family!r}. {known}")
    of_text = CONFIG_MAPPING[family] in MODEL_FOR_CAUSAL_LM_MAPPING
    model_class = (MODEL_FOR_CAUSAL_LM_MAPPING if of_text else MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)[
        CONFIG_MAPPING[family]
    ]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    if model_class is None:
        raise UnknownNameError(f"Expected a class of transformers for {family!r}, found none; choose another family.")
    own = getattr(model_class, "config_class", None)  # the text part of a family that has others, too
    config_class = own if own is not None else CONFIG_MAPPING[family]
    config = tiny_config(config_class, SEEING.get(family), **{**MORE.get(family, {}), **changes})
    with _seeded(seed):
        model = model_class(config).eval()
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=SCALE)
    return model


def tiny_config(
    config_class: type[PreTrainedConfig], seeing: Mapping[str, Mapping[str, Any]] | None = None, **changes: Any
) -> PreTrainedConfig:
    """A configuration with small sizes; parts for text, vision and sound inside it alike.

    Args:
        config_class: Its class.
        seeing: Fields of some of its parts by their names, and of the "whole", where it has several.
        changes: Fields of its text part, or of it where it has none.
    """
    seeing = {} if seeing is None else seeing
    fields = _fields(config_class)
    given: dict[str, Any] = {}
    # cast: transformers makes it a property of the class in a way of its own
    inner = cast("Mapping[str, Any]", config_class.sub_configs)
    if inner:
        whole = config_class()
        parts = {name: getattr(whole, name, None) for name in inner if name not in changes}
        text = next((name for name in ("text_config", "llm_config") if name in parts), None)
        given = {
            name: tiny_config(type(part), **(changes if name == text else _known(type(part), seeing.get(name, {}))))
            for name, part in parts.items()
            if part is not None
        }
        changes = {} if text else changes
    given |= {name: size for name, size in SIZES.items() if isinstance(fields.get(name, ""), int | None)}
    given |= {name: value for name, value in WORDS.items() if name in fields}
    if "kv_lora_rank" in given and "num_key_value_heads" in given:
        given["num_key_value_heads"] = given["num_attention_heads"]  # latent attention has a key for every head
    if "layer_types" in fields and "layer_types" not in changes:
        kinds = list(dict.fromkeys(config_class().layer_types or []))
        if kinds:
            given["layer_types"] = [kinds[index % len(kinds)] for index in range(LAYERS)]
    return config_class(**{**given, **(seeing.get("whole", {}) if inner else {}), **changes})


def _known(config_class: type[PreTrainedConfig], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields that a configuration has."""
    fields = _fields(config_class)
    return {name: value for name, value in wanted.items() if name in fields}


def _fields(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """Names of a configuration's fields, with their defaults."""
    if dataclasses.is_dataclass(config_class):
        return {field.name: field.default for field in dataclasses.fields(config_class)}
    parameters = inspect.signature(config_class.__init__).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """A seed for the length of a block, the caller's stream untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
