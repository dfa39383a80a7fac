"""Ours, stock attention, kvpress and the released code on one shape, in turns: `python benchmarks/peers.py`.

kvpress needs another version of transformers, so the command makes an environment for it, once, beside what is
installed here: torch is the same. So does the code released with the paper, which runs where ``--released`` names a
checkout of it (:mod:`released_code`). Each configuration runs in a process of its own, in turns within a repetition;
ratios are to stock attention with a full cache in the same repetition. Beside each stands the least that it can cost
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import released_code
import torch
import tyro
from llama import Clock, Rates, Shape, held_bytes, pairs_seen, timed

OURS = ("stock", "full", "namm-all", "namm-30", "namm-10", "h2o-30", "keydiff-30", "snapkv-30", "knorm-30")
KVPRESS = ("kvpress-stock", "kvpress-snapkv-30", "kvpress-knorm-30", "kvpress-expected-30")
RELEASED = ("released-all", "released-30")
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
    released: Path | None = None
    """A checkout of the code released with the paper; adds "released-all" and "released-30", where none is named."""
    released_environment: Path = field(default_factory=lambda: Path.home() / ".cache" / "namm-suite" / "released")
    """Where what that code needs is installed; made if it is not there."""
    shape: Shape = field(default_factory=Shape)
    """The model."""
    one: tuple[str, int] | None = None
    """Measure one configuration at one length in this process and print JSON; for the command's own use."""


def family(name: str) -> str:
    """Whose a configuration is, where it is not ours: "kvpress", "released"."""
    return name.partition("-")[0]


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
    is_ours = name in OURS and name != "stock"
    # transformers imports torchvision, which does not load beside every torch; none of ours is imported with it
    runpy.run_path(str(CURE))["cure_torchvision"]()
    torch.set_num_threads(options.threads)
    if family(name) == "released" and options.released:
        share = kept_share(name)
        cap = None if share == 1 else round(share * tokens)
        return released_code.measure(options.released, tokens, cap, options.shape, options.clock)
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


def environment_of(folder: Path, *packages: str) -> Path:
    """The interpreter of an environment with these, which is made if need be; says how long that took and its size."""
    python = folder / "bin" / "python"
    made = folder / packages[0].replace("==", "-")
    if made.exists():
        return python
    began = time.perf_counter()
    venv.create(folder, with_pip=True, clear=True)
    [installed] = folder.glob("lib/python*/site-packages")
    # what is installed here is seen there too, torch above all, behind what is wanted in other versions
    (installed / "beside.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    install = [str(python), "-m", "pip", "install", "--quiet", *packages]
    # silent where it succeeds: it calls an error what these versions are to packages beside, which are not used there
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Expected to install {', '.join(packages)} in {folder}; pip failed:\n{done.stderr}")
    made.touch()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{', '.join(packages)} installed in {time.perf_counter() - began:.0f} s, {size / 2**20:.0f} MiB\n")
    return python


def measured(name: str, tokens: int, options: Options, interpreters: dict[str, Path]) -> dict[str, float]:
    """One configuration in a process of its own."""
    shape = options.shape
    command = [
        str(interpreters.get(family(name), sys.executable)), __file__, "--threads", str(options.threads),
        "--clock", options.clock,
        "--shape.layers", str(shape.layers), "--shape.width", str(shape.width), "--shape.heads", str(shape.heads),
        "--shape.kv-heads", str(shape.kv_heads), "--shape.inner", str(shape.inner),
        "--shape.dtype", shape.dtype, "--one", name, str(tokens),
    ]  # fmt: skip
    if options.released:
        command += ["--released", str(options.released)]
    silent = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | silent)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def limits(name: str, tokens: int, shape: Shape, rates: Rates) -> tuple[float, float]:
    """Seconds that a prefill and a new token take at least."""
    held = round(kept_share(name) * tokens)
    # others forget once, at the prompt's end
    forgets = name.startswith(("namm", "released", "h2o", "keydiff")) and held < tokens
    pairs = pairs_seen(tokens, held if forgets else None)
    prefill = shape.prefill_operations(tokens, pairs, name.startswith(("namm", "released"))) / rates.operations
    return prefill, shape.step_bytes(held) / rates.bytes_read


def _times(value: float, base: float) -> float:
    """How many times the base; a process that never needed more room than it began with has nothing to compare."""
    return value / base if base else float("nan")


def rows(tokens: int, options: Options, interpreters: dict[str, Path], rates: Rates) -> None:
    """Measures one length and prints its rows."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.configurations}
    for _ in range(options.repetitions):
        for name, runs in found.items():
            runs.append(measured(name, tokens, options, interpreters))
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
    families = set(map(family, options.configurations))
    if options.released:
        released_code.check_checkout(options.released)
        if "released" not in families:
            options = replace(options, configurations=options.configurations + RELEASED)
            families.add("released")
    elif "released" in families:
        raise SystemExit("The released code is not installed with this project: name a checkout, --released FOLDER.")
    interpreters = {}
    if "kvpress" in families:
        interpreters["kvpress"] = environment_of(options.environment, f"kvpress=={options.kvpress}")
    if "released" in families:
        interpreters["released"] = environment_of(options.released_environment, *released_code.PACKAGES)
    rates = Rates.measured(options.threads, options.shape.dtype, options.clock)
    print(f"Measured here: {rates.operations / 1e9:.0f} GFLOP/s, {rates.bytes_read / 1e9:.1f} GB/s read.\n")
    print(
        "| tokens | configuration | prefill | best | limit | new token | best | limit | KV | most | state | process |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for tokens in options.tokens:
        rows(tokens, options, interpreters, rates)


if __name__ == "__main__":
    main()
