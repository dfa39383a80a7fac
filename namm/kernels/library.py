"""Torch's own attention kernels for CUDA that also return the log-sum-exp.

Which one is taken: for half precision cuDNN's from compute capability 9.0 on, else flash attention; otherwise the
memory-efficient one; ragged heads in one call of flash attention, each head a sequence of its own. All of them as
:mod:`namm.kernels.devices` says: on modern devices, once found right. Whatever they do not take (masks, capped logits,
widths that are no multiple of 8) is left to the definition, :func:`namm.kernels.blocks.attend_in_blocks`. (Torch's flex
attention takes caps. It is compiled for the lengths it meets, and here those change with every update.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.kernels.blocks import attend_in_blocks
from namm.kernels.devices import agrees, is_modern, switched_off

HALF = (torch.float16, torch.bfloat16)
LARGEST_HEAD = 256
CUDNN_CAPABILITY = (9, 0)
"""Of a device for which cuDNN's attention was written anew."""
TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float32: 1e-3}
"""By how much outputs, and log-sum-exps, of normal numbers may be off."""

Attended = tuple[Float[Tensor, "batch heads queries value_dim"], Float[Tensor, "batch heads queries"]]


def cudnn(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> Attended:
    """CuDNN's attention; half precision, values as wide as keys."""
    found = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, causal, False, scale=scale
    )
    return found[0], found[1].reshape(query.shape[:3])


def flash(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> Attended:
    """Flash attention; half precision, values as wide as keys."""
    found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
    return found[0], found[1]


def efficient(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> Attended:
    """The memory-efficient kernel, whose log-sum-exps are filled up to a multiple of 32 queries."""
    found = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, causal, scale=scale
    )
    return found[0], found[1][..., : query.shape[2]]


def attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads slots head_dim"],
    value: Float[Tensor, "batch heads slots value_dim"],
    scale: float,
    causal: bool,
) -> tuple[Float[Tensor, "batch heads queries value_dim"], Float[Tensor, "batch heads queries"]] | None:
    """Output and log-sum-exp of the logits in fp32; None where no kernel is to be taken.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        scale: Factor on the logits.
        causal: Query i sees slots 0 to i (as many queries as slots); else each sees all.
    """
    if not is_modern(query.device) or switched_off() or not _fits(query, value):
        return None
    kernels = [efficient]
    if query.dtype in HALF and query.shape[3] == value.shape[3]:
        kernels = [cudnn, flash] if is_modern(query.device, CUDNN_CAPABILITY) else [flash]
    for kernel in kernels:
        if _is_right(kernel, query.device, query.dtype, query.shape[3], value.shape[3], causal):
            out, log_sum = kernel(query, key, value, scale, causal)
            return out, log_sum.float()
    return None


def attend_ragged(
    query: Float[Tensor, "heads queries head_dim"],
    keys: Float[Tensor, "packed head_dim"],
    values: Float[Tensor, "packed value_dim"],
    ends: Int[Tensor, " heads_and_one"],
    longest: int,
    scale: float,
) -> tuple[Float[Tensor, "heads queries value_dim"], Float[Tensor, "heads queries"]] | None:
    """The same for heads that hold different numbers of tokens, head after head; None where there is no kernel.

    A head that holds nothing has output 0 and log-sum-exp -inf.

    Args:
        query: Queries of each head.
        keys: Keys of all heads.
        values: Their values.
        ends: Where each head's tokens begin, and at last where all end; int32, on the queries' device.
        longest: Tokens of the head that holds most.
        scale: Factor on the logits.
    """
    fits = query.dtype in HALF and query.shape[2] == values.shape[1]
    if not fits or not is_modern(query.device) or switched_off() or not _fits(query, values):
        return None
    if not _is_ragged_right(query.device, query.dtype, query.shape[2]):
        return None
    return ragged(query, keys, values, ends, longest, scale)


def ragged(
    query: Float[Tensor, "heads queries head_dim"],
    keys: Float[Tensor, "packed head_dim"],
    values: Float[Tensor, "packed head_dim"],
    ends: Int[Tensor, " heads_and_one"],
    longest: int,
    scale: float,
) -> tuple[Float[Tensor, "heads queries head_dim"], Float[Tensor, "heads queries"]]:
    """Flash attention for sequences of different lengths, with one head each; see :func:`attend_ragged`."""
    heads, queries, _ = query.shape
    askers = torch.arange(0, (heads + 1) * queries, queries, dtype=torch.int32, device=query.device)
    found = torch.ops.aten._flash_attention_forward(
        query.reshape(heads * queries, 1, -1), keys.unsqueeze(1), values.unsqueeze(1), askers, ends, queries, longest,
        0.0, False, False, scale=scale,
    )  # fmt: skip
    empty = (ends.diff() == 0).unsqueeze(1)  # what it says of these differs between versions
    out = found[0].view(heads, queries, -1).masked_fill(empty.unsqueeze(2), 0.0)
    return out, found[1].view(heads, queries).float().masked_fill(empty, float("-inf"))


def _fits(query: Tensor, value: Tensor) -> bool:
    """Whether kernels take these widths and this type."""
    widths = (query.shape[-1], value.shape[-1])
    return query.dtype in TOLERANCE and all(width % 8 == 0 and width <= LARGEST_HEAD for width in widths)


@lru_cache(maxsize=256)
def _is_right(
    kernel: Callable[..., Attended],
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    causal: bool,
) -> bool:
    """Whether a kernel agrees with the definition there."""

    def difference() -> float:
        slots = 45
        shapes = ((2, 3, slots if causal else 37, head_dim), (2, 3, slots, head_dim), (2, 3, slots, value_dim))
        query, key, value = _drawn(shapes, device, dtype)
        mask = torch.ones(slots, slots, dtype=torch.bool, device=device).tril()[None, None] if causal else None
        found = kernel(query, key, value, 0.2, causal)
        return _apart(found, attend_in_blocks(query.float(), key.float(), value.float(), 0.2, mask))

    name = f"Torch's {kernel.__name__} attention ({dtype}, widths {head_dim} and {value_dim}, causal {causal})"
    return agrees(name, device, difference, TOLERANCE[dtype])


@lru_cache(maxsize=64)
def _is_ragged_right(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """The same of :func:`ragged`, a head that holds nothing among others."""

    def difference() -> float:
        lengths, queries = (19, 0, 45, 1), 5
        ends = torch.tensor((0, *torch.tensor(lengths).cumsum(0).tolist()), dtype=torch.int32).to(device)
        query, keys, values = _drawn(((4, queries, head_dim), (65, head_dim), (65, head_dim)), device, dtype)
        out, log_sum = ragged(query, keys, values, ends, max(lengths), 0.2)
        worst = 0.0
        for head, (mine, kept) in enumerate(zip(keys.split(lengths), values.split(lengths), strict=True)):
            if not lengths[head]:
                worst = max(worst, float(out[head].abs().max()), 0.0 if bool((log_sum[head] < -1e30).all()) else 1.0)
                continue
            asked, mine, kept = (part[None, None].float() for part in (query[head], mine, kept))
            wanted = attend_in_blocks(asked, mine, kept, 0.2, None)
            off = _apart((out[None, None, head], log_sum[None, None, head]), wanted)
            worst = off if not off <= worst else worst
        return worst

    name = f"Torch's flash attention of ragged heads ({dtype}, width {head_dim})"
    return agrees(name, device, difference, TOLERANCE[dtype])


def _drawn(shapes: tuple[tuple[int, ...], ...], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Normal numbers, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def _apart(found: Attended, wanted: Attended) -> float:
    """The largest difference of outputs and log-sum-exps."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        off = float((one.float() - other).abs().max())
        worst = off if not off <= worst else worst
    return worst
