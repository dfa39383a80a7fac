"""Whether the fused fold of :mod:`namm.kernels.fold` is taken, and the torch code that defines it.

It is taken on modern CUDA devices (:mod:`namm.kernels.devices`), with triton at hand, for the published hop of 16
queries, once it was found right for the type, width and group. With Triton's interpreter (`TRITON_INTERPRET=1`) it also
runs on the CPU, for tests.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from namm.attention.factors import Factors
from namm.kernels.devices import agrees, is_modern, switched_off
from namm.spectrogram import dft_basis, fold_columns

LARGEST_HEAD = 256
"""Widest head whose keys fit a program."""
TOLERANCE = 2e-3
"""Part of the largest spectrum by which the kernel's may be off, in half precision; a hundredth of that in fp32."""


def defined(
    factors: Factors,
    spectrum: Float[Tensor, "batch kv_heads slots bins"],
    tail: Float[Tensor, "batch kv_heads slots hop"],
    basis: Float[Tensor, "window two_bins"],
    decay: float,
) -> tuple[Float[Tensor, "batch kv_heads slots bins"], Float[Tensor, "batch kv_heads slots hop"]]:
    """What :func:`namm.kernels.fold.fold` computes, by torch and with columns; see there for the arguments."""
    return fold_columns(factors.columns(), spectrum, tail, basis, decay)


def can_fold(query: Tensor, group: int, hop: int, capped: bool) -> bool:
    """Whether the kernel is to be taken for queries like these.

    Args:
        query: For their device, type and width.
        group: Query heads a KV head.
        hop: Queries between two frames.
        capped: Whether logits are bounded.
    """
    if hop != 16 or query.shape[-1] > LARGEST_HEAD or switched_off():
        return False
    return _is_able(query.device) and _is_right(query.device, query.dtype, query.shape[-1], group, capped)


def _is_able(device: torch.device) -> bool:
    """Whether the device runs Triton's kernels at all."""
    if importlib.util.find_spec("triton") is None:
        return False
    return is_modern(device) or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


@lru_cache(maxsize=256)
def _is_right(device: torch.device, dtype: torch.dtype, head_dim: int, group: int, capped: bool) -> bool:
    """Whether the kernel agrees with its definition there."""
    rounds = dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32
    name = f"The fused fold of attention into spectra ({dtype}, width {head_dim}, group {group})"
    allowed = TOLERANCE if rounds else TOLERANCE / 100
    return agrees(name, device, lambda: worst_difference(device, dtype, head_dim, group, capped), allowed)


@torch.inference_mode()
def worst_difference(
    device: torch.device, dtype: torch.dtype, head_dim: int, group: int, capped: bool, slots: int = 70, frames: int = 3
) -> float:
    """The largest difference between kernel and definition, as a part of the largest number of the definition.

    Args:
        device: Where both run.
        dtype: Of keys and queries; the definition gets the same numbers in fp32.
        head_dim: Width of keys.
        group: Query heads a KV head.
        capped: Whether logits are bounded.
        slots: Tokens of each of the two heads, as many interval tokens as queries among them.
        frames: Hops of queries.
    """
    from namm.kernels.fold import HOP, fold

    generator = torch.Generator().manual_seed(0)
    queries, basis = frames * HOP, dft_basis(2 * HOP, device)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    key, query = drawn(1, 2, slots, head_dim).to(dtype), drawn(1, 2, group * queries, head_dim).to(dtype)
    scale, softcap = head_dim**-0.5, 3.0 if capped else None
    spectrum, tail = drawn(1, 2, slots, HOP + 1).abs() / slots, drawn(1, 2, slots, HOP).abs() / slots
    logits = query.float() @ key.float().transpose(-1, -2) * scale
    log_sum = (logits if softcap is None else softcap * (logits / softcap).tanh()).logsumexp(-1)
    worst = 0.0
    for causal_from in (None, 0, HOP + 3):
        rest = (log_sum, group, scale, causal_from, softcap)
        found = fold(Factors(key, query, *rest), spectrum, tail, basis, 0.99)
        wanted = defined(Factors(key.float(), query.float(), *rest), spectrum, tail, basis, 0.99)
        for ours, theirs in zip(found, wanted, strict=True):
            off = float((ours - theirs).abs().max() / theirs.abs().max())
            worst = off if not off <= worst else worst
    return worst
