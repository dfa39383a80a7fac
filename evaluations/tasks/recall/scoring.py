"""Full-cache scores of a causal language model: recall per prompt, and loss on real text."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from evaluations.tasks.recall.corpus import RecallVocabulary, Split
from evaluations.tasks.recall.tasks import IGNORED, TextPrompts


@torch.no_grad()
def recall_scores(model: nn.Module, prompts: TextPrompts, batch_tokens: int = 16_384) -> Float[Tensor, " prompts"]:
    """The fraction of asked positions answered rightly in each prompt, with everything remembered.

    Args:
        model: a Hugging Face causal language model (its `model` and `lm_head` are called).
        prompts: as sampled by a `TextTask`.
        batch_tokens: tokens of one forward pass at most (but at least one prompt).
    """
    ids = torch.cat([prompts.context, prompts.question], dim=1)
    size = max(1, batch_tokens // ids.shape[1])
    decoder, lm_head = model.get_submodule("model"), model.get_submodule("lm_head")
    scores = []
    for part, target in zip(ids.split(size), prompts.target.split(size), strict=True):
        hidden = decoder(input_ids=part, use_cache=False).last_hidden_state
        answers = lm_head(hidden[:, prompts.context.shape[1] :]).argmax(-1)
        asked = target != IGNORED
        scores.append(((answers == target) & asked).sum(1) / asked.sum(1))
    return torch.cat(scores)


@torch.no_grad()
def text_loss(
    model: nn.Module, vocabulary: RecallVocabulary, split: Split, rows: int, tokens: int, seed: int
) -> dict[str, float]:
    """Loss on plain text of a split in stretches of `tokens` tokens, every token given all before it.

    Returns:
        `nats_per_token` and `bits_per_byte`.
    """
    rng = np.random.default_rng([seed, tokens])
    decoder, lm_head = model.get_submodule("model"), model.get_submodule("lm_head")
    total, count, length = 0.0, 0, 0
    for _ in range(rows):
        ids, _ = vocabulary.text(split).cut(rng, tokens)
        length += len(vocabulary.tokenizer.decode(ids.tolist(), skip_special_tokens=False).encode())
        row = torch.from_numpy(np.concatenate([[vocabulary.begin], ids]))[None]
        hidden = decoder(input_ids=row[:, :-1], use_cache=False).last_hidden_state
        losses = nn.functional.cross_entropy(lm_head(hidden)[0].float(), row[0, 1:], reduction="sum")
        total, count = total + losses.item(), count + len(ids)
    return {"nats_per_token": total / count, "bits_per_byte": total / math.log(2) / length}
