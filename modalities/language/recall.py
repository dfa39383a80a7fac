"""Prompts of one length, which a whole population of policies may answer side by side: what an evolution scores by.

The question is fed after the context and teacher forced, so that one forward pass asks everything; the memory has
judged the context's tokens before it knows any question. Prompts of any lengths, and answers in words:
`modalities.language.reading`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.huggingface.attach import attach
from modalities.language.batch import Batch
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
    rows, tokens = context.shape
    interval = policy.selection.interval
    shared = min(tokens, interval) - 1 if copies > 1 and interval else 0
    with attach(model, policy) as memory:
        batch = Batch(model, memory, None)
        if shared:
            prompts = rows // copies
            batch.feed(context[:prompts, :shared].tolist())
            batch.select(list(range(prompts)) * copies, identities=torch.arange(rows))
        batch.feed(context[:, shared:].tolist())
        held = memory.slots().float()  # [prompts, layers, kv_heads]
        cache_bytes = memory.cache_bytes()
        _, scores = batch.ask(question.tolist(), target.tolist())
    accuracy = torch.stack([torch.tensor(hits, dtype=torch.float32).mean() for _, hits, _ in scores])
    log_likelihood = torch.stack([torch.tensor(likelihoods).mean() for _, _, likelihoods in scores])
    head_slots = tuple(tuple(heads) for heads in held.mean(0).tolist())
    return Recall(accuracy, log_likelihood, held.mean(dim=(1, 2)), head_slots, cache_bytes, tokens)
