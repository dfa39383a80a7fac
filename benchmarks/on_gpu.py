"""What no machine of this project has confirmed, asked of a GPU in ten minutes: `python benchmarks/on_gpu.py`.

Whether kernels are right there (ours, and torch's that return a log-sum-exp), whether every policy keeps on the device
what it keeps on the CPU, and what prefill, a new token and memory cost, with kernels and without, beside stock
attention. Nothing is written; what is found wrong is printed, and the exit status is 1. With `--device cpu` it shows
that it runs.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from llama import Shape

import modalities  # before transformers
from namm import NAMM
from namm.kernels import choice, library
from namm.policies import POLICIES, make_policy

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.namm.device_reading import RULES, compared

LARGE = Shape(layers=16, width=2048, heads=32, kv_heads=8, inner=8192)
"""As of a Llama of about a billion weights."""


@dataclass(frozen=True)
class Options:
    """What is asked."""

    device: str = "cuda"
    """Where."""
    dtype: str = "bfloat16"
    """Of the benchmark's model."""
    tokens: tuple[int, ...] = (4096, 16_384, 65_536)
    """Lengths of its prompts."""
    new: int = 32
    """Tokens that follow, one by one."""
    minutes: float = 9.0
    """No further part begins after so long."""
    shape: Shape = LARGE
    """Its model."""
    policies: tuple[str, ...] = tuple(sorted(POLICIES))
    """Which policies are compared with the CPU's."""


def kernels(device: torch.device) -> Iterator[str]:
    """What is wrong with kernels, each in a line; how far off the others are is printed."""
    types = (torch.float32, torch.float16, torch.bfloat16)
    for dtype in types:
        for head_dim, group in ((64, 4), (80, 1), (96, 3), (128, 8), (256, 2)):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                query = torch.empty(1, group, 1, head_dim, dtype=dtype, device=device)
                if choice.can_fold(query, group, 16, False):
                    off = choice.worst_difference(device, dtype, head_dim, group, False, slots=1000, frames=8)
                    print(f"fold, {dtype}, width {head_dim}, group {group}: off by {off:.1e} of the largest")
                key = torch.randn(1, 1, 64, head_dim, device=device).to(dtype)
                for causal in (False, True):
                    found = library.attend(key, key, key, 0.1, causal)
                    taken = "torch's kernel" if found is not None else "the definition"
                    print(f"attention, {dtype}, width {head_dim}, causal {causal}: {taken}")
            yield from (str(one.message) for one in said)


def policies(options: Options, late: Callable[[], bool]) -> Iterator[str]:
    """What policies do otherwise than on the CPU."""
    for name in options.policies:
        for store in ("packed", "padded"):
            if late():
                print(f"no time for {name}, {store}")
            elif wrong := compared(name, store, options.device, allowed=2e-3):
                yield f"{name}, {store}: {wrong}"
    for name, rule in RULES.items():
        if not late() and (wrong := compared("namm", "packed", options.device, rule(), allowed=2e-3)):
            yield f"namm, {name}: {wrong}"


def timed(options: Options, tokens: int, share: float | None, kernels_on: bool) -> tuple[float, float, float]:
    """Seconds of a prefill and of a new token, and GiB at the peak beside the weights."""
    os.environ["NAMM_KERNELS"] = "on" if kernels_on else "off"
    device = torch.device(options.device)
    on_cuda = device.type == "cuda"
    wait = torch.cuda.synchronize if on_cuda else lambda: None
    model: Any = options.shape.build().model.to(device, getattr(torch, options.dtype))
    policy = None if share is None else make_policy("namm", namm=NAMM(), budget=round(share * tokens))
    ids = torch.randint(0, 1024, (1, tokens), device=device)
    with torch.inference_mode(), nullcontext() if policy is None else modalities.attach(model, policy) as memory:
        for length in (min(tokens, 1024), tokens):  # the first warms up
            if memory is not None:
                memory.reset()
            if on_cuda:
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if on_cuda else 0
            wait()
            began = time.perf_counter()
            cache = model(input_ids=ids[:, :length], use_cache=True).past_key_values
            wait()
            prefill, began = time.perf_counter() - began, time.perf_counter()
            for _ in range(options.new):
                model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
            wait()
            step = (time.perf_counter() - began) / options.new
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30 if on_cuda else float("nan")
    return prefill, step, peak


def main() -> int:
    options = tyro.cli(Options, description=(__doc__ or "").partition("\n\n")[0])
    began, device = time.perf_counter(), torch.device(options.device)

    def late() -> bool:
        return time.perf_counter() - began > 60 * options.minutes

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}\n")
    with torch.no_grad():
        wrong = [*kernels(device), *policies(options, late)]
    print(f"\n{len(wrong)} found wrong after {time.perf_counter() - began:.0f} s\n" + "\n".join(wrong) + "\n")
    print("| tokens | configuration | prefill | new token | peak |\n|---|---|---|---|---|")
    for tokens in options.tokens:
        for title, share, kernels_on in (
            ("stock", None, True), ("NAMM at 30%", 0.3, True), ("NAMM at 30%, definitions", 0.3, False),
            ("NAMM at 10%", 0.1, True),
        ):  # fmt: skip
            if late():
                print(f"| {tokens:,} | {title} | no time | | |")
                continue
            prefill, step, peak = timed(options, tokens, share, kernels_on)
            print(f"| {tokens:,} | {title} | {prefill:.3f} s | {1e3 * step:.2f} ms | {peak:.2f} GiB |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
