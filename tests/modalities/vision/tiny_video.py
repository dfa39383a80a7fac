"""A small random LLaVA-NeXT-Video with its processor, and clips of noise: 16 pixels, 4 tokens a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedTokenizerFast,
)

from modalities.vision.frames import Clip, clip_of

WORDS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", "USER:", "ASSISTANT:", "what", "colour", "was", "is",
         "the", "first", "last", "shape", "red", "blue", "green", "said", "a", "b", "c", "yes", "no", "?")  # fmt: skip
SIZE = 16
TOKENS = 4
"""Of a frame."""
TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{ '<video>\n' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tiny_video_model(seed: int = 0, scale: float = 0.25) -> LlavaNextVideoForConditionalGeneration:
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**shared, num_hidden_layers=2, image_size=SIZE, patch_size=4),
        text_config=LlamaConfig(
            **shared, num_hidden_layers=3, num_key_value_heads=2, vocab_size=len(WORDS), max_position_embeddings=4096,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        image_token_index=WORDS.index("<image>"),
        video_token_index=WORDS.index("<video>"),
        image_grid_pinpoints=[[SIZE, SIZE]],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaNextVideoForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=scale)
    return model


def tiny_processor(size: int = SIZE) -> Any:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    shared = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**shared),
        image_processor=LlavaNextImageProcessor(**shared, image_grid_pinpoints=[[size, size]]),
        tokenizer=fast,
        chat_template=TEMPLATE,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def noise(frames: int, seed: int, height: int = 20, width: int = 20) -> Clip:
    drawn = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return clip_of(drawn, fps=2.0)
