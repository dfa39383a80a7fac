"""Text models: reads a context under a memory, then asks about it.

The question is fed after the context and teacher forced, so that one forward pass asks everything; the memory has
judged the context's tokens before it knows any question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.huggingface.attach import attach, cache_argument, cache_of
from modalities.language.prompts import IGNORED
from namm.errors import ConfigError
from namm.policies import Policy


@dataclass(frozen=True)
class Recall:
    """How a batch of prompts was answered, and what the memory held when it was asked."""

    accuracy: Float[Tensor, " prompts"]
    """Fraction of the asked tokens that are the model's first choice."""

    log_likelihood: Float[Tensor, " prompts"]
    """Of the asked tokens, in nats a token."""

    slots: Float[Tensor, " prompts"]
    """Slots held when the question came, mean over layers and KV heads."""

    head_slots: tuple[tuple[float, ...], ...]
    """The same for each layer and KV head, mean over prompts."""

    cache_bytes: int
    """Bytes of keys and values allocated at that moment, for the whole batch."""

    context_tokens: int
    """Tokens seen by then."""

    @property
    def kept_fraction(self) -> float:
        """Slots held / tokens seen, mean over prompts."""
        return float(self.slots.mean()) / self.context_tokens


@torch.inference_mode()
def recall(
    model: PreTrainedModel,
    policy: Policy,
    context: Int[Tensor, "prompts context_tokens"],
    question: Int[Tensor, "prompts question_tokens"],
    target: Int[Tensor, "prompts question_tokens"],
    copies: int = 1,
) -> Recall:
    """Answers prompts under a policy.

    Args:
        model: A causal language model.
        policy: Governs the cache while the context is read and the question is asked.
        context: Tokens read first.
        question: Tokens fed then.
        target: The token to predict after each question token; -100 where nothing is asked.
        copies: The rows are so many copies of the same prompts, block by block, which the policy judges differently (a
            population). What comes before the first update is the same for all and is then read only once.
    """
    body = cast("PreTrainedModel", model.base_model)  # typed as any module
    name = cache_argument(body)
    interval = policy.selection.interval
    rows, tokens = context.shape
    shared = min(tokens, interval) - 1 if copies > 1 and interval else 0
    with attach(body, policy) as memory:
        given: dict[str, Any] = {name: None}
        if shared:
            prompts = rows // copies
            given[name] = cache_of(body(input_ids=context[:prompts, :shared], use_cache=True))
            memory.select_sequences(torch.arange(prompts).repeat(copies), identities=torch.arange(rows))
        read = body(input_ids=context[:, shared:], **given, use_cache=True)
        held = memory.slots().float()  # [prompts, layers, kv_heads]
        cache_bytes = memory.cache_bytes()
        given[name] = cache_of(read)
        asked = body(input_ids=question, **given, use_cache=True).last_hidden_state
    wanted = target != IGNORED
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"Expected a causal language model, found {type(model).__name__}, which predicts no tokens.")
    logits = head(asked[wanted])
    right = torch.zeros(target.shape)
    right[wanted.cpu()] = (logits.argmax(-1) == target[wanted]).float().cpu()
    likely = torch.zeros(target.shape)
    likely[wanted.cpu()] = logits.float().log_softmax(-1).gather(1, target[wanted][:, None]).squeeze(1).cpu()
    asked_for = wanted.sum(1).cpu()
    accuracy, log_likelihood = right.sum(1) / asked_for, likely.sum(1) / asked_for
    head_slots = tuple(tuple(heads) for heads in held.mean(0).tolist())
    return Recall(accuracy, log_likelihood, held.mean(dim=(1, 2)), head_slots, cache_bytes, tokens)
