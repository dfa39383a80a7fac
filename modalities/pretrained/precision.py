"""In which floating-point type a model is computed on this machine.

Checkpoints say bfloat16. A CPU without AVX512-BF16 or AMX emulates it: on an AVX2 machine reading took 7 to 60 times as
long as in float32, which holds the same numbers.
"""

from __future__ import annotations

import time
from functools import cache

import torch


def quick_dtype(dtype: torch.dtype, device: torch.device | str) -> torch.dtype:
    """The type itself, but float32 in place of a half type that this CPU only emulates.

    Args:
        dtype: Of the checkpoint, or as wanted.
        device: Where the model will be.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if half and torch.device(device).type == "cpu" and _is_slower(dtype) else dtype


@cache
def _is_slower(dtype: torch.dtype) -> bool:
    """Whether float32 is quicker; measured once, so that a process keeps to what it chose."""
    return matmul_rate(dtype) < matmul_rate(torch.float32)


def matmul_rate(dtype: torch.dtype, size: int = 512, repeats: int = 5) -> float:
    """Multiply-adds, counted twice, a second of processor time, of square matrices on one CPU thread; the best of some.

    Args:
        dtype: Of the matrices.
        size: Rows and columns.
        repeats: How often it is tried.
    """
    before, best = torch.get_num_threads(), 0.0
    torch.set_num_threads(1)
    try:
        left, right = (torch.ones(size, size, dtype=dtype) for _ in range(2))
        for _ in range(repeats):
            began = time.process_time()
            torch.nn.functional.linear(left, right)  # the layout that layers have: other ones are slower
            best = max(best, 2.0 * size**3 / max(time.process_time() - began, 1e-6))
    finally:
        torch.set_num_threads(before)
    return best
