"""The small video model before training: LLaVA-NeXT-Video around our tower, and its processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpoints.recipes.video_tower import PREPROCESSING
from checkpoints.recipes.video_vocabulary import BEGIN, END, IMAGE, PAD, VIDEO, make_tokenizer, words
from modalities.vision.clip_tower import to_huggingface

PROMPT = "USER: <video>\n{question} ASSISTANT:"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class LanguageConfig:
    """Shape of the language part."""

    layers: int = 4
    """Decoder layers."""
    width: int = 128
    """Hidden size."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads."""
    feed_forward: int = 256
    """Hidden size of the feed-forward part."""
    rope_theta: float = 10_000_000.0
    """Base of the rotary frequencies."""
    positions: int = 4096
    """`max_position_embeddings`."""


def make_video_model(config: LanguageConfig, clip_folder: Path, seed: int) -> nn.Module:
    """A `LlavaNextVideoForConditionalGeneration` with the trained tower and a fresh rest, a function of `seed`."""
    import open_clip
    from transformers import LlamaConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tower = to_huggingface(clip.visual.eval())
    ids = {word: index for index, word in enumerate(words())}
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=config.width,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.positions,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=ids[BEGIN],
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
    )
    size = tower.config.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaNextVideoForConditionalGeneration(
            LlavaNextVideoConfig(
                vision_config=tower.config,
                text_config=text,
                image_token_index=ids[IMAGE],
                video_token_index=ids[VIDEO],
                image_grid_pinpoints=[[size, size]],
                vision_feature_layer=-2,
                spatial_pool_mode="conv",  # a square of the board is 2 x 2 patches, whose average would blur its shape
                spatial_pool_out_channels=tower.config.hidden_size,
                spatial_pool_stride=2,
                image_seq_length=(size // tower.config.patch_size) ** 2,
                video_seq_length=(size // tower.config.patch_size) ** 2 // 4,
                tie_word_embeddings=False,
                pad_token_id=ids[PAD],
                bos_token_id=ids[BEGIN],
                eos_token_id=ids[END],
            )
        )
        _start(model)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    model.model.image_newline.requires_grad_(False)  # images only
    return model


@torch.no_grad()
def _start(model: nn.Module) -> None:
    """Pooling, projector and words start at a scale at which frames and words find each other soon.

    transformers starts every layer at the same small scale.
    """
    inner = model.model
    pool = inner.vision_resampler.pool
    pool.weight.normal_(std=(4 * pool.in_channels) ** -0.5)
    pool.bias.zero_()
    for linear in (inner.multi_modal_projector.linear_1, inner.multi_modal_projector.linear_2):
        linear.weight.normal_(std=linear.in_features**-0.5)
    inner.language_model.embed_tokens.weight.normal_(std=0.1)


def make_processor(patch_size: int) -> Any:
    """The `LlavaNextVideoProcessor` that goes with the model: 64 pixels, the tower's own scaling, one token a word."""
    from transformers import LlavaNextImageProcessor, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    size = PREPROCESSING["size"]
    shared = {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_mean": PREPROCESSING["mean"],
        "image_std": PREPROCESSING["std"],
    }
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**shared),
        image_processor=LlavaNextImageProcessor(**shared, image_grid_pinpoints=[[size, size]]),
        tokenizer=make_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
