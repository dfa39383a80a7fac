"""The language part starts near the circuit that answers rest on, as in mimetic initialisation.

From a random start a model of this size sits on a plateau where it answers with anything it has seen. The way off it is
a circuit of two layers: a question's word finds the squares that show it and copies what else they show; the last token
copies what the question's words found. Here the weights start near it, and are then trained like all others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MATCH_GAIN = 3.0
"""Strength of the first layer's look at tokens that are alike."""

COPY_GAIN = 0.5
"""Scale of what is copied."""

SIDE_SHARE = 0.4
"""Size of the component that tells squares from words, over that of a token."""

SIDE_GAIN = 1.4
"""Strength of keeping to one side."""

SLOW_PAIRS = 5 / 16
"""Rotary pairs from this fraction on turn less than some two radians within a clip: the match uses only them."""


@torch.no_grad()
def start_near_answers(model: nn.Module, squares: Tensor, seed: int) -> None:
    """Changes an aligned model in place.

    Args:
        model: a video model whose squares fit their words (`video_alignment.align`).
        squares: tokens of some squares, after the projector.
        seed: of the fresh weights.
    """
    inner = model.model
    language = inner.language_model
    embedded, last = language.embed_tokens.weight, inner.multi_modal_projector.linear_2
    # Every fit of a square with a word changes alike, so they stay aligned.
    last.weight[0], last.bias[0] = 0.0, SIDE_SHARE * squares.norm(dim=1).mean()
    embedded[:, 0] = -SIDE_SHARE * embedded.norm(dim=1).mean()
    model.lm_head.weight.copy_(embedded)  # what is copied from a square is then an answer
    model.lm_head.weight[:, 0] = 0.0
    generator = torch.Generator().manual_seed(seed)
    first, *others = (layer.self_attn for layer in language.layers)
    _match(first, generator)
    if others:
        _gather(others[0], generator)


def _match(attention: nn.Module, generator: torch.Generator) -> None:
    """Words look at squares like themselves."""
    size, width = attention.head_dim, attention.q_proj.in_features
    slow = (torch.arange(size) % (size // 2) >= size * SLOW_PAIRS // 2)[:, None]
    key = slow * torch.randn(size, width, generator=generator) * width**-0.5
    key[:, 0], key[-1] = 0.0, 0.0
    attention.k_proj.weight[:size], attention.q_proj.weight[:size] = key, MATCH_GAIN * key
    attention.k_proj.weight[size - 1, 0], attention.q_proj.weight[size - 1, 0] = SIDE_GAIN, -SIDE_GAIN
    _copy(attention, generator)


def _gather(attention: nn.Module, generator: torch.Generator) -> None:
    """Words look at words."""
    size = attention.head_dim
    for weight in (attention.k_proj.weight, attention.q_proj.weight):
        weight[:size] = 0.0
        weight[size - 1, 0] = SIDE_GAIN
    _copy(attention, generator)


def _copy(attention: nn.Module, generator: torch.Generator) -> None:
    """The first head hands on what it finds."""
    size, width = attention.head_dim, attention.v_proj.in_features
    value = torch.randn(size, width, generator=generator) * width**-0.5
    value[:, 0] = 0.0  # not the side
    attention.v_proj.weight[:size], attention.o_proj.weight[:, :size] = value, COPY_GAIN * value.T
