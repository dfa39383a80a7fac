"""What a NAMM may read of a token besides its age: a list of named signals in the config.

An attention signal is carried from update to update as state and z-scored by the statistics in force. A key signal is
computed at each update from the keys and values that a head holds then. Key signals know no scale (norms are z-scored
over the head's own tokens) and no basis (cosines and norms are the same in every rotation), so that models of any width
may be read; and they ask nothing of the past: a token that nobody has looked at yet still has a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

ATTENTION_SIGNALS = ("spectrogram", "mean")
"""Of the attention a token received: its averaged spectrum (as published), or its mean over each hop (ablation)."""

MIN_SPREAD = 1e-7
"""Least deviation that a norm's z-score divides by."""

NEWER_BLOCK = 256
"""Tokens that are compared with all newer ones at a time."""


@dataclass(frozen=True)
class Held:
    """What a head holds at an update: slots oldest first, unused ones before the oldest token."""

    keys: Callable[[], Float[Tensor, "batch kv_heads slots head_dim"]]
    """Gathers the keys."""

    values: Callable[[], Float[Tensor, "batch kv_heads slots value_dim"]]
    """Gathers the values."""

    valid: Bool[Tensor, "batch kv_heads slots"]
    """Which slots hold a token."""


def key_difference(
    keys: Float[Tensor, "batch kv_heads slots head_dim"], valid: Bool[Tensor, "batch kv_heads slots"]
) -> Float[Tensor, "batch kv_heads slots"]:
    """Minus the cosine of each key to the mean direction of its head's keys, from -1 (alike) to 1 (arXiv 2504.15364).

    Args:
        keys: Of every slot.
        valid: Which slots count.
    """
    keys, held = keys.float(), valid.unsqueeze(-1)
    mean = (normalize(keys, dim=-1) * held).sum(2, keepdim=True) / held.sum(2, keepdim=True)
    return -cosine_similarity(keys, mean, dim=-1)


def nearest_newer(
    keys: Float[Tensor, "batch kv_heads slots head_dim"], valid: Bool[Tensor, "batch kv_heads slots"]
) -> Float[Tensor, "batch kv_heads slots"]:
    """One minus the largest cosine to a newer key of the head, both seen from the head's mean key.

    Keys of one head lie in a narrow cone; without their mean the differences are what is left. Near 0: said again
    since; 1 (nothing alike) for the newest token.

    Args:
        keys: Of every slot.
        valid: Which slots count.
    """
    keys, held = keys.float(), valid.unsqueeze(-1)
    mean = (keys * held).sum(2, keepdim=True) / held.sum(2, keepdim=True).clamp_min(1)
    unit = normalize((keys - mean) * held, dim=-1)
    slots, place = keys.shape[2], torch.arange(keys.shape[2], device=keys.device)
    nearest = torch.zeros_like(unit[..., 0])
    for start in range(0, slots, NEWER_BLOCK):
        own = slice(start, start + NEWER_BLOCK)
        cosine = unit[:, :, own] @ unit[:, :, start:].transpose(-1, -2)
        newer = place[start:] > place[own, None]
        nearest[:, :, own] = cosine.masked_fill(~newer, -1.0).amax(-1)
    nearest[:, :, -1] = 0.0
    return 1.0 - nearest


def standardised_norm(
    vectors: Float[Tensor, "batch kv_heads slots width"], valid: Bool[Tensor, "batch kv_heads slots"]
) -> Float[Tensor, "batch kv_heads slots"]:
    """Lengths as z-scores over the head's own tokens.

    Args:
        vectors: Keys or values of every slot.
        valid: Which slots count.
    """
    length, weight = vectors.float().norm(dim=-1), valid.float()
    count = weight.sum(-1, keepdim=True).clamp_min(1.0)
    mean = (length * weight).sum(-1, keepdim=True) / count
    spread = ((length - mean).square() * weight).sum(-1, keepdim=True).div(count).sqrt()
    return (length - mean) / spread.clamp_min(MIN_SPREAD)


KEY_SIGNALS: Mapping[str, Callable[[Held], Float[Tensor, "batch kv_heads slots"]]] = MappingProxyType(
    {
        "key_difference": lambda held: key_difference(held.keys(), held.valid),
        "key_norm": lambda held: standardised_norm(held.keys(), held.valid),
        "value_norm": lambda held: standardised_norm(held.values(), held.valid),
        "nearest_newer": lambda held: nearest_newer(held.keys(), held.valid),
    }
)
"""One number a token each, from what the head holds at the update."""

SIGNALS = (*ATTENTION_SIGNALS, *KEY_SIGNALS)
"""Every name that a config may list."""


def key_signals(names: Sequence[str], held: Held) -> Float[Tensor, "batch kv_heads slots signals"]:
    """The named key signals, in their order; unused slots are 0.

    Args:
        names: Keys of `KEY_SIGNALS`.
        held: Keys and values; each is gathered once, and only if a signal asks.
    """
    held = Held(cache(held.keys), cache(held.values), held.valid)
    parts = [KEY_SIGNALS[name](held).masked_fill(~held.valid, 0.0) for name in names]
    return torch.stack(parts, -1) if parts else torch.zeros(*held.valid.shape, 0, device=held.valid.device)
