"""The recall model before training: a stock Llama whose first layers start near the circuit that all recall rests on.

From a purely random start a model of this size sits for millions of tokens on a plateau where it answers with any
value it has seen. The way off it is a circuit of two layers (look at the left neighbour; look where the present token
came before and copy what followed), which gradients find late or never. Here the weights start near it, as in mimetic
initialisation, and are then trained like all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from evaluations.tasks.recall.corpus import RecallVocabulary

CONSTANT_COMPONENT = 0.5
"""First component of every embedding at the start, about six times the others."""

NEIGHBOUR_PAIRS = 5
"""Rotary pairs, fastest first and with falling weight, that tell the neighbour from other tokens."""

NEIGHBOUR_SHARE = 0.6
"""Scale of what the first head writes at the start: about that of the embeddings."""

QUERY_GAIN = 5.0
"""Scale of the matching heads' queries over the first layer's value projection."""

SLOW_PAIRS = 7 / 16
"""Rotary pairs from this fraction on turn less than a radian within 1,000 tokens: the match uses only them."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape and start of the model."""

    layers: int = 4
    """At least 3: the start fills three."""
    width: int = 128
    """Hidden size."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads."""
    feed_forward: int = 320
    """Hidden size of the feed-forward part."""
    rope_theta: float = 10_000_000.0
    """Base of the rotary frequencies: large, so that half of the pairs hardly turn within 3,000 tokens."""
    positions: int = 8192
    """`max_position_embeddings`."""
    embedding_std: float = 0.08
    """Initial embeddings: large beside the learning rate, or the first steps undo the start."""
    neighbour_gain: float = 2.0
    """Strength of the first layer's look at the neighbouring tokens; 0 starts at random throughout."""
    match_gain: float = 4.0
    """Strength of the match of a token with an earlier one's left neighbour."""
    third_layer_match: float = 2.0
    """How much stronger the third layer's match starts, whose input has grown."""
    copy_gain: float = 2.0
    """Strength of the copying of what was found."""


def make_model(config: ModelConfig, vocabulary: RecallVocabulary, seed: int) -> nn.Module:
    """A `LlamaForCausalLM` with fresh weights, a function of `seed`; the global random state is left as it was."""
    from modalities.huggingface.torchvision import cure_torchvision

    cure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary.size,
                hidden_size=config.width,
                intermediate_size=config.feed_forward,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                max_position_embeddings=config.positions,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
                bos_token_id=int(vocabulary.begin),
                eos_token_id=None,
                pad_token_id=int(vocabulary.pad),
            )
        )
        if config.neighbour_gain > 0:
            _start_with_recall(model, config)
    return model


@torch.no_grad()
def _start_with_recall(model: nn.Module, config: ModelConfig) -> None:
    """Puts the first head of the first three layers near a recall circuit.

    First layer: every embedding gets the same first component; the first KV head's keys and its query heads' queries
    read it with phases for which the rotary score, a sum of cos(frequency * (distance - d)), is largest at distance
    d = 1, 2, ...: heads that look at the neighbours. What the head of distance 1 finds goes into components of its own.
    Second and third layer: the first head's queries read a token as the first layer's values do, its keys read those
    components, so it looks where the present token came just before; its output is the transpose of its value
    projection, so it copies what it finds. Two such layers follow a chain of two assignments.
    """
    head_dim = config.width // config.heads
    half, queries_per_key = head_dim // 2, config.heads // config.kv_heads
    own = config.width - head_dim  # from here on, components carry the left neighbour and nothing else
    embeddings = model.model.embed_tokens.weight
    embeddings[:, own:] = 0.0
    # Equal norms: a token of larger key would outshine its neighbour.
    embeddings *= config.embedding_std * own**0.5 / embeddings.norm(dim=1, keepdim=True).clamp_min(1e-6)
    embeddings[:, 0] = CONSTANT_COMPONENT
    first, *matching = (layer.self_attn for layer in model.model.layers[:3])
    frequencies = config.rope_theta ** (-torch.arange(half) / half)
    gain = config.neighbour_gain * (1.0 - torch.arange(half) / NEIGHBOUR_PAIRS).clamp_min(0.0).sqrt()
    first.k_proj.weight[:head_dim] = 0.0
    first.q_proj.weight[: queries_per_key * head_dim] = 0.0
    first.k_proj.weight[:half, 0] = gain
    for head in range(queries_per_key):
        # Rotating by -d * frequency moves the peak from distance 0 to d.
        angle = -(head + 1) * frequencies
        first.q_proj.weight[head * head_dim : head * head_dim + half, 0] = gain * angle.cos()
        first.q_proj.weight[head * head_dim + half : (head + 1) * head_dim, 0] = gain * angle.sin()
    first.v_proj.weight[:head_dim, 0], first.v_proj.weight[:head_dim, own:] = 0.0, 0.0
    first.o_proj.weight[own:], first.o_proj.weight[:, :head_dim] = 0.0, 0.0
    first.o_proj.weight[own:, :head_dim] = NEIGHBOUR_SHARE * torch.eye(head_dim)
    slow = (torch.arange(head_dim) % half >= half * SLOW_PAIRS)[:, None]
    for attention, growth in zip(matching, (1.0, config.third_layer_match), strict=True):
        attention.q_proj.weight[:head_dim] = QUERY_GAIN * growth * slow * first.v_proj.weight[:head_dim]
        attention.k_proj.weight[:head_dim] = 0.0
        attention.k_proj.weight[:head_dim, own:] = config.match_gain * slow * torch.eye(head_dim)
        attention.v_proj.weight[:head_dim, own:] = 0.0
        attention.o_proj.weight[:, :head_dim] = config.copy_gain * attention.v_proj.weight[:head_dim].T
