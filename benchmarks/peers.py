"""Ours, stock attention and kvpress on one shape, in turns: `python benchmarks/peers.py`.

kvpress needs another version of transformers, so the command makes an environment for it, once, beside what is
installed here: torch is the same. Each configuration runs in a process of its own, in turns within a repetition; ratios
are to stock attention with a full cache in the same repetition. Beside each stands the least that it can cost
(:mod:`llama`): the arithmetic over the measured peak, and for a new token the bytes of weights and cache over the
measured rate of reading.
"""

from __future__ import annotations

import json
import os
import runpy
import site
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from llama import Clock, Rates, Shape, held_bytes, pairs_seen, timed

OURS = ("stock", "full", "namm-all", "namm-30", "namm-10", "h2o-30", "keydiff-30", "snapkv-30", "knorm-30")
KVPRESS = ("kvpress-stock", "kvpress-snapkv-30", "kvpress-knorm-30", "kvpress-expected-30")
CURE = Path(__file__).parents[1] / "modalities" / "huggingface" / "torchvision.py"
SNAPKV = {"window_size": 64, "kernel_size": 5}
"""kvpress's defaults."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    tokens: tuple[int, ...] = (2048, 8192)
    """Lengths of the prompt."""
    repetitions: int = 3
    """Turns; ratios are medians over them."""
    threads: int = 2
    """Threads of each process."""
    clock: Clock = "wall"
    """With one thread on a machine that others use too, "processor"."""
    configurations: tuple[str, ...] = OURS + KVPRESS
    """Some of them; the first is the base. Names that begin with "kvpress" run in the environment below."""
    kvpress: str = "0.5.5"
    """Version of kvpress."""
    environment: Path = field(default_factory=lambda: Path.home() / ".cache" / "namm-suite" / "kvpress")
    """Where kvpress is installed; made if it is not there."""
    shape: Shape = field(default_factory=Shape)
    """The model."""
    one: tuple[str, int] | None = None
    """Measure one configuration at one length in this process and print JSON; for the command's own use."""


def kept_share(name: str) -> float:
    """The part of the prompt that a configuration keeps."""
    last = name.rpartition("-")[2]
    return int(last) / 100 if last.isdigit() else 1.0


def ours(name: str, tokens: int) -> Any:
    """The policy of a configuration."""
    from namm import NAMM
    from namm.policies import make_policy

    budget = round(kept_share(name) * tokens)
    prompt = {"schedule": "prompt", "budget": budget}
    makers: dict[str, Callable[[], Any]] = {
        "full": lambda: make_policy("full"),
        "namm-all": lambda: make_policy("namm", namm=NAMM()),  # all zeros: every score passes the threshold
        "namm-30": lambda: make_policy("namm", namm=NAMM(), budget=budget),
        "namm-10": lambda: make_policy("namm", namm=NAMM(), budget=budget),
        "h2o-30": lambda: make_policy("h2o", budget=budget),
        "keydiff-30": lambda: make_policy("keydiff", budget=budget),
        "snapkv-30": lambda: make_policy("snapkv", **prompt),
        "knorm-30": lambda: make_policy("l2_norm", **prompt),
    }
    return makers[name]()


def press_of(name: str) -> Any:
    """A peer's method; only in its own environment."""
    import kvpress

    ratio = 1.0 - kept_share(name)
    return {
        "kvpress-snapkv-30": lambda: kvpress.SnapKVPress(compression_ratio=ratio, **SNAPKV),
        "kvpress-knorm-30": lambda: kvpress.KnormPress(compression_ratio=ratio),
        "kvpress-expected-30": lambda: kvpress.ExpectedAttentionPress(compression_ratio=ratio),
    }[name]()


def measure(name: str, tokens: int, options: Options) -> dict[str, float]:
    """Times one configuration in this process; seconds and bytes."""
    is_ours = not name.startswith("kvpress") and name != "stock"
    # transformers imports torchvision, which does not load beside every torch; none of ours is imported with it
    runpy.run_path(str(CURE))["cure_torchvision"]()
    torch.set_num_threads(options.threads)
    model = options.shape.build()
    if is_ours:
        import modalities

        with modalities.attach(model.model, ours(name, tokens)) as memory:
            took = timed(model, tokens, options.clock)
            report = memory.report()
        return {
            "prefill": took.prefill, "step": took.step, "peak": took.peak, "held": report.cache_bytes,
            "most": report.peak_cache_bytes, "state": report.state_bytes,
        }  # fmt: skip
    press = press_of(name) if name.startswith("kvpress-") and name != "kvpress-stock" else None
    took = timed(model, tokens, options.clock, reading=None if press is None else lambda: press(model))
    held = held_bytes(took.cache)
    # a press drops keys when a layer has read the whole prompt: layer by layer, the layers above hold nothing yet
    full = options.shape.kv_bytes(tokens)
    most = held if press is None else held * (1 - 1 / options.shape.layers) + full / options.shape.layers
    return {
        "prefill": took.prefill, "step": took.step, "peak": took.peak, "held": held, "most": max(held, most),
        "state": 0.0,
    }  # fmt: skip


def environment_of(options: Options) -> Path:
    """The interpreter of kvpress's environment, which is made if need be; says how long that took and its size."""
    python = options.environment / "bin" / "python"
    if (options.environment / f"kvpress-{options.kvpress}").exists():
        return python
    began = time.perf_counter()
    venv.create(options.environment, with_pip=True, clear=True)
    [packages] = options.environment.glob("lib/python*/site-packages")
    # what is installed here is seen there too, torch above all, behind what kvpress wants in other versions
    (packages / "beside.pth").write_text("".join(f"{folder}\n" for folder in site.getsitepackages()))
    install = [str(python), "-m", "pip", "install", "--quiet", "--quiet", f"kvpress=={options.kvpress}"]
    subprocess.run(install, check=True)
    (options.environment / f"kvpress-{options.kvpress}").touch()
    size = sum(file.stat().st_size for file in options.environment.rglob("*") if file.is_file())
    print(f"kvpress {options.kvpress} installed in {time.perf_counter() - began:.0f} s, {size / 2**20:.0f} MiB\n")
    return python


def measured(name: str, tokens: int, options: Options, peer: Path | None) -> dict[str, float]:
    """One configuration in a process of its own."""
    shape = options.shape
    command = [
        str(peer) if name.startswith("kvpress") else sys.executable, __file__, "--threads", str(options.threads),
        "--clock", options.clock,
        "--shape.layers", str(shape.layers), "--shape.width", str(shape.width), "--shape.heads", str(shape.heads),
        "--shape.kv-heads", str(shape.kv_heads), "--shape.inner", str(shape.inner),
        "--shape.dtype", shape.dtype, "--one", name, str(tokens),
    ]  # fmt: skip
    silent = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | silent)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def limits(name: str, tokens: int, shape: Shape, rates: Rates) -> tuple[float, float]:
    """Seconds that a prefill and a new token take at least."""
    held = round(kept_share(name) * tokens)
    forgets = name.startswith(("namm", "h2o", "keydiff")) and held < tokens  # others once, at the prompt's end
    pairs = pairs_seen(tokens, held if forgets else None)
    prefill = shape.prefill_operations(tokens, pairs, name.startswith("namm")) / rates.operations
    return prefill, shape.step_bytes(held) / rates.bytes_read


def _times(value: float, base: float) -> float:
    """How many times the base; a process that never needed more room than it began with has nothing to compare."""
    return value / base if base else float("nan")


def rows(tokens: int, options: Options, peer: Path | None, rates: Rates) -> None:
    """Measures one length and prints its rows."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.configurations}
    for _ in range(options.repetitions):
        for name, runs in found.items():
            runs.append(measured(name, tokens, options, peer))
            print(f"{tokens} {name} {json.dumps(runs[-1])}", file=sys.stderr, flush=True)
    base = found[options.configurations[0]]
    for name, runs in found.items():
        ratio = {
            key: statistics.median(_times(one[key], own[key]) for one, own in zip(runs, base, strict=True))
            for key in ("prefill", "step", "held", "most", "peak")
        }
        state = statistics.median(one["state"] / own["held"] for one, own in zip(runs, base, strict=True))
        prefill, step = (min(run[key] for run in runs) for key in ("prefill", "step"))
        least_prefill, least_step = limits(name, tokens, options.shape, rates)
        print(
            f"| {tokens:,} | {name} | {ratio['prefill']:.2f}x | {prefill:.2f} s | {least_prefill:.2f} s "
            f"| {ratio['step']:.2f}x | {1e3 * step:.1f} ms | {1e3 * least_step:.1f} ms | {ratio['held']:.2f}x "
            f"| {ratio['most']:.2f}x | {state:.2f}x | {ratio['peak']:.2f}x |",
            flush=True,
        )


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").partition("\n\n")[0])
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    peer = environment_of(options) if any(name.startswith("kvpress") for name in options.configurations) else None
    rates = Rates.measured(options.threads, options.shape.dtype)
    print(f"Measured here: {rates.operations / 1e9:.0f} GFLOP/s, {rates.bytes_read / 1e9:.1f} GB/s read.\n")
    print(
        "| tokens | configuration | prefill | best | limit | new token | best | limit | KV | most | state | process |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for tokens in options.tokens:
        rows(tokens, options, peer, rates)


if __name__ == "__main__":
    main()
