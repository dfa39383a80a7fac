"""A small random Qwen2.5-VL (positions in three dimensions) with its processor."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from modalities.conformance.tiny_models import VOCABULARY, tiny_model

SPECIAL = ("<pad>", "<s>", "</s>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<unk>")
WORDS = ("user", "assistant", "what", "is", "red", "blue", "the", "shape", "?", "yes", "no", "said", "a", "b")
TEMPLATE = (
    "user {% for part in messages[0]['content'] %}{% if part['type'] == 'video' %}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "assistant"
)


def tiny_qwen_model() -> Any:
    return tiny_model("qwen2_5_vl")


def tiny_qwen_processor() -> Any:
    words = [*SPECIAL, *WORDS, *[f"w{place}" for place in range(VOCABULARY - len(SPECIAL) - len(WORDS))]]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL[3:7])})
    shared = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    pixels = {"shortest_edge": 64, "longest_edge": 16 * 16}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared, size=pixels),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(**shared, size={"shortest_edge": 64, "longest_edge": 16 * 16 * 32}),
        chat_template=TEMPLATE,
    )
