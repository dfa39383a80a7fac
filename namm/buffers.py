"""Dense buffers of the current interval, which grow and are filled row by row."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def grow(buffer: Float[Tensor, "batch heads slots *rest"], slots: int) -> Float[Tensor, "batch heads more *rest"]:
    """The buffer with room for ``slots``, what it held at the front; zeros behind, for a masked NaN is still NaN."""
    bigger = buffer.new_zeros(*buffer.shape[:2], slots, *buffer.shape[3:])
    bigger[:, :, : buffer.shape[2]] = buffer
    return bigger


def shrink(buffer: Float[Tensor, "batch heads slots *rest"], slots: int) -> Float[Tensor, "batch heads fewer *rest"]:
    """The buffer with room for ``slots`` at most; a copy, for a view would hold all of it."""
    return buffer if buffer.shape[2] <= slots else buffer[:, :, :slots].clone()


def write_rows(
    buffer: Float[Tensor, "batch heads slots *rest"],
    new: Float[Tensor, "batch heads tokens *rest"],
    starts: Int[Tensor, " batch"],
    counts: Int[Tensor, " batch"] | None,
    first: int | None,
) -> None:
    """Writes each row's first ``counts`` new tokens at its own start; ``first`` is that of all, where they agree."""
    tokens = new.shape[2]
    if counts is None and first is not None:
        buffer[:, :, first : first + tokens] = new
        return
    token = torch.arange(tokens)
    real = token < (torch.full_like(starts, tokens) if counts is None else counts)[:, None]
    row, token = real.nonzero(as_tuple=True)
    slot = (starts[row] + token).to(buffer.device)
    row, token = row.to(buffer.device), token.to(buffer.device)
    buffer.transpose(1, 2)[row, slot] = new.transpose(1, 2)[row, token]
