"""Attention columns to their averaged spectrum in one pass, in Triton: no column is ever written.

A program takes some tokens of a head and walks over the interval's queries, one hop after another: logits of the
tokens' keys and the hop's queries, their probabilities by the log-sum-exp that the forward pass kept, the mean over the
query group, then two products with the DFT basis (the hop before and this one make a frame), and the moving average.
Keys are read once; what is written is the state.

Defined by :meth:`namm.kernels.choice.defined`, from which it differs by rounding. Importing this module imports triton.
"""

# pyright: reportMissingParameterType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# (a kernel is Triton's language, not Python's: its pointers have no type here, and its launch takes options of its own)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from namm.attention.factors import Factors

HOP = 16
"""Queries of a frame's half: what one product covers, and the smallest one that Triton has."""
BLOCK_SLOTS = 32
"""Tokens of a program: with more, sm_80 keeps a part of a wide head's products outside registers."""
WARPS, STAGES = 4, 2
"""Threads of a program / 32, and hops of queries on their way at once."""


@triton.jit
def fold_kernel(
    key_ptr,
    query_ptr,
    log_sum_ptr,
    spectrum_ptr,
    tail_ptr,
    basis_ptr,
    new_spectrum_ptr,
    new_tail_ptr,
    slots,
    queries,
    causal_from,
    key_stride,
    scale,
    cap,
    carry,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BINS: tl.constexpr,
    HOP: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    CAUSAL: tl.constexpr,
    CAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of a head's tokens; heads along the grid's second axis.

    ``key`` is ``[heads, slots, HEAD_DIM]`` with ``key_stride`` between heads, ``query`` ``[heads, GROUP, queries,
    HEAD_DIM]``, ``log_sum`` ``[heads, GROUP, queries]``, ``spectrum`` ``[heads, slots, BINS]``, ``tail``
    ``[heads, slots, HOP]``, ``basis`` ``[2 * HOP, 2 * BINS]``.
    """
    head = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    dim = tl.arange(0, BLOCK_DIM)
    hop = tl.arange(0, HOP)
    bin = tl.arange(0, BLOCK_BINS)
    is_slot = slot < slots
    is_dim = dim < HEAD_DIM
    is_bin = bin < BINS

    key = tl.load(
        key_ptr + head * key_stride + slot[:, None] * HEAD_DIM + dim[None, :],
        mask=is_slot[:, None] & is_dim[None, :],
        other=0.0,
    )
    # what a frame's older and newer half are multiplied with
    corner = basis_ptr + hop[:, None] * (2 * BINS) + bin[None, :]
    older_real = tl.load(corner, mask=is_bin[None, :], other=0.0)
    older_imaginary = tl.load(corner + BINS, mask=is_bin[None, :], other=0.0)
    newer_real = tl.load(corner + HOP * 2 * BINS, mask=is_bin[None, :], other=0.0)
    newer_imaginary = tl.load(corner + HOP * 2 * BINS + BINS, mask=is_bin[None, :], other=0.0)

    row = head * slots + slot
    before = tl.load(tail_ptr + row[:, None] * HOP + hop[None, :], mask=is_slot[:, None], other=0.0)
    average = tl.load(
        spectrum_ptr + row[:, None] * BINS + bin[None, :], mask=is_slot[:, None] & is_bin[None, :], other=0.0
    )
    for start in range(0, queries, HOP):
        column = tl.zeros([BLOCK_SLOTS, HOP], dtype=tl.float32)
        for member in tl.static_range(GROUP):
            asker = (head * GROUP + member) * queries + start + hop
            query = tl.load(query_ptr + asker[None, :] * HEAD_DIM + dim[:, None], mask=is_dim[:, None], other=0.0)
            logits = tl.dot(key, query, input_precision=PRECISION) * scale
            if CAPPED:  # tanh, by what every target has
                logits = cap * (1.0 - 2.0 / (tl.exp(2.0 * logits / cap) + 1.0))
            log_sum = tl.load(log_sum_ptr + asker)
            column += tl.exp(logits - log_sum[None, :])
        column = column / GROUP
        if CAUSAL:
            column = tl.where((start + hop)[None, :] >= (causal_from + slot)[:, None], column, 0.0)
        # one tensor-core product would keep ten bits of a column, and the network reads differences: three
        real = tl.dot(before, older_real, input_precision="tf32x3")
        real += tl.dot(column, newer_real, input_precision="tf32x3")
        imaginary = tl.dot(before, older_imaginary, input_precision="tf32x3")
        imaginary += tl.dot(column, newer_imaginary, input_precision="tf32x3")
        average = carry * average + (1.0 - carry) * tl.sqrt(real * real + imaginary * imaginary)
        before = column
    tl.store(new_spectrum_ptr + row[:, None] * BINS + bin[None, :], average, mask=is_slot[:, None] & is_bin[None, :])
    tl.store(new_tail_ptr + row[:, None] * HOP + hop[None, :], before, mask=is_slot[:, None])


def fold(
    factors: Factors,
    spectrum: Float[Tensor, "batch kv_heads slots bins"],
    tail: Float[Tensor, "batch kv_heads slots hop"],
    basis: Float[Tensor, "window two_bins"],
    decay: float,
) -> tuple[Float[Tensor, "batch kv_heads slots bins"], Float[Tensor, "batch kv_heads slots hop"]]:
    """The averaged spectrum and the last hop of the columns, after one more interval.

    Args:
        factors: What the columns are the product of; a multiple of `HOP` queries.
        spectrum: The average after the interval before, in fp32.
        tail: The last `HOP` values of the columns of the interval before, in fp32.
        basis: From :func:`namm.spectrogram.dft_basis`.
        decay: EMA decay per query.
    """
    batch, kv_heads, slots, head_dim = factors.key.shape
    heads, bins = batch * kv_heads, spectrum.shape[3]
    new_spectrum, new_tail = torch.empty_like(spectrum), torch.empty_like(tail)
    if slots == 0 or heads == 0:
        return new_spectrum, new_tail
    key = factors.key.reshape(heads, slots, head_dim)
    if key.stride()[1:] != (head_dim, 1):
        key = key.contiguous()
    queries = factors.query.shape[2] // factors.group
    fold_kernel[(triton.cdiv(slots, BLOCK_SLOTS), heads)](
        key, factors.query.contiguous(), factors.log_sum.contiguous(), spectrum.contiguous(), tail.contiguous(), basis,
        new_spectrum, new_tail, slots, queries, factors.causal_from or 0, key.stride(0), factors.scale,
        factors.softcap or 1.0, decay**HOP,
        **constants(head_dim, factors.group, bins, factors.causal_from is not None, factors.softcap is not None),
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return new_spectrum, new_tail


def constants(head_dim: int, group: int, bins: int, causal: bool, capped: bool) -> dict[str, int | bool | str]:
    """What the kernel is compiled for.

    Args:
        head_dim: Width of a key.
        group: Query heads a KV head.
        bins: Of the spectrum.
        causal: Whether queries are older than some of the tokens.
        capped: Whether logits are bounded.
    """
    # of fp32 logits three tensor-core products keep what one would round off, and need far fewer registers than none
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
    return {
        "HEAD_DIM": head_dim, "GROUP": group, "BINS": bins, "HOP": HOP, "BLOCK_SLOTS": BLOCK_SLOTS,
        "BLOCK_DIM": max(16, triton.next_power_of_2(head_dim)), "BLOCK_BINS": max(16, triton.next_power_of_2(bins)),
        "CAUSAL": causal, "CAPPED": capped, "PRECISION": precision,
    }  # fmt: skip
