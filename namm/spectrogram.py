"""Attention columns to spectra: STFT magnitudes of what each cached token received, averaged over time.

The signal of a token is its column of the attention matrix: one value a query, in query order. The transform
is a matrix product with a windowed DFT basis, so that it works block by block, for any leading axes and device.
Source: arXiv 2410.13166 section 3.1; constants as released.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def dft_basis(window: int, device: torch.device | None = None) -> Float[Tensor, "window two_bins"]:
    """Periodic Hann window times the one-sided DFT: real parts of every bin, then imaginary parts."""
    sample = torch.arange(window, dtype=torch.float64)
    bins = torch.arange(window // 2 + 1, dtype=torch.float64)
    hann = 0.5 * (1.0 - torch.cos(2.0 * math.pi * sample / window))
    angle = 2.0 * math.pi * sample[:, None] * bins[None, :] / window
    basis = hann[:, None] * torch.cat([torch.cos(angle), -torch.sin(angle)], dim=1)
    return basis.to(torch.float32).to(device)


def frame_weights(frames: int, hop: int, decay: float, device: torch.device | None = None) -> Float[Tensor, " frames"]:
    """EMA weight of each frame of one interval, oldest first: ``(1 - g) g^(frames-1-f)`` with ``g = decay^hop``."""
    frame_decay = decay**hop
    ages = torch.arange(frames - 1, -1, -1, dtype=torch.float64)
    return ((1.0 - frame_decay) * frame_decay**ages).to(torch.float32).to(device)


def stft_magnitudes(
    signal: Float[Tensor, "*tokens queries"],
    previous: Float[Tensor, "*tokens hop"],
    basis: Float[Tensor, "window two_bins"],
) -> Float[Tensor, "*tokens frames bins"]:
    """Magnitudes of the half-overlapping frames of one interval of attention.

    Args:
        signal: Attention each token received from each query of the interval; queries a multiple of the hop.
        previous: The last ``hop`` values of the interval before (zeros for a token that is new).
        basis: From :func:`dft_basis`.

    Returns:
        ``queries / hop`` frames a token; frame f covers queries ``hop*(f-1)`` to ``hop*(f+1)-1``.
    """
    hop = previous.shape[-1]
    joined = torch.cat([previous, signal], dim=-1).flatten(0, -2)
    frames = joined.unfold(-1, 2 * hop, hop).transpose(0, 1)  # [frames, tokens, window], overlapping views: no copy
    spectrum = torch.bmm(frames, basis.expand(frames.shape[0], -1, -1))
    real, imaginary = spectrum.square_().chunk(2, dim=-1)
    return (real + imaginary).sqrt_().transpose(0, 1).unflatten(0, signal.shape[:-1])


def hop_means(signal: Float[Tensor, "*tokens queries"], hop: int) -> Float[Tensor, "*tokens frames one"]:
    """Mean attention over each hop of one interval: what is left without frequencies (the paper's ablation)."""
    return signal.unflatten(-1, (-1, hop)).mean(-1, keepdim=True)


def fold_spectrum(
    average: Float[Tensor, "*tokens bins"],
    magnitudes: Float[Tensor, "*tokens frames bins"],
    hop: int,
    decay: float,
) -> Float[Tensor, "*tokens bins"]:
    """Exponential moving average carried over one more interval, without bias correction (as released).

    Args:
        average: The average after the previous interval; zeros for a new token.
        magnitudes: Frames of the interval, oldest first.
        hop: Queries a frame.
        decay: EMA decay per query.
    """
    frames = magnitudes.shape[-2]
    weights = frame_weights(frames, hop, decay, magnitudes.device)
    return average * decay ** (hop * frames) + torch.einsum("f,...fk->...k", weights, magnitudes)


def fold_columns(
    columns: Float[Tensor, "*tokens queries"],
    average: Float[Tensor, "*tokens bins"],
    previous: Float[Tensor, "*tokens hop"],
    basis: Float[Tensor, "window two_bins"],
    decay: float,
) -> tuple[Float[Tensor, "*tokens bins"], Float[Tensor, "*tokens hop"]]:
    """The averaged spectrum after one more interval of attention, and the attention of its last hop.

    Args:
        columns: Attention each token received from each query of the interval; queries a multiple of the hop.
        average: The average after the previous interval; zeros for a new token.
        previous: The last hop of the interval before (zeros for a token that is new).
        basis: From :func:`dft_basis`.
        decay: EMA decay per query.
    """
    hop = previous.shape[-1]
    magnitudes = stft_magnitudes(columns, previous, basis)
    return fold_spectrum(average, magnitudes, hop, decay), columns[..., -hop:]
