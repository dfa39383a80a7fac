"""Prefill and decoding with a NAMM against stock attention with a full cache: `python benchmarks/prefill_decode.py`.

One Llama shape (6 layers, width 512, 8 heads, 2 KV heads, random weights, fp32) at several context lengths. Each
configuration runs in a process of its own, so that peak memory is its own, and configurations take turns within a
repetition, so that a noisy machine disturbs all alike. What counts are the ratios.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import modalities

CONFIGURATIONS = ("stock", "full", "namm-all", "namm-30", "h2o-30")
NEW_TOKENS = 48


def measure(name: str, tokens: int, threads: int) -> dict[str, float]:
    """Times one configuration in this process; seconds, bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from namm import NAMM
    from namm.policies import make_policy

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=512, intermediate_size=1376, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=65_536,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 1024, (1, tokens))
    budget = round(0.3 * tokens)

    def run(prompt: torch.Tensor, new: int) -> tuple[float, float, object]:
        cache = None
        began = time.perf_counter()
        out = model.model(input_ids=prompt, use_cache=True)
        prefill = time.perf_counter() - began
        cache = out.past_key_values
        token = prompt[:, -1:]
        began = time.perf_counter()
        for _ in range(new):
            out = model.model(input_ids=token, past_key_values=cache, use_cache=True)
        return prefill, (time.perf_counter() - began) / max(1, new), cache

    with torch.inference_mode():
        run(ids[:, :64], 1)  # warm up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if name == "stock":
            prefill, step, cache = run(ids, NEW_TOKENS)
            held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
            peak_held, state, kept = held, 0, 1.0
        else:
            policy = {
                "full": lambda: make_policy("full"),
                "namm-all": lambda: make_policy("namm", namm=NAMM()),  # all zeros: every score passes the threshold
                "namm-30": lambda: make_policy("namm", namm=NAMM(), budget=budget),
                "h2o-30": lambda: make_policy("h2o", budget=budget),
            }[name]()
            with modalities.attach(model.model, policy) as memory:
                prefill, step, _ = run(ids, NEW_TOKENS)
                report = memory.report()
            held, peak_held = report.cache_bytes, report.peak_cache_bytes
            state, kept = report.state_bytes, report.kept_fraction
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "prefill": prefill, "step": step, "held": held, "peak_held": peak_held, "state": state, "kept": kept,
        "peak": peak,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 16384])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--configurations", nargs="+", default=list(CONFIGURATIONS), choices=CONFIGURATIONS)
    parser.add_argument("--one", nargs=2, metavar=("CONFIGURATION", "TOKENS"), help="measure one in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), arguments.threads)))
        return
    print(
        "| tokens | configuration | prefill | per new token | KV held | KV peak | policy state | process peak | kept |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for tokens in arguments.tokens:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.configurations}
        for _ in range(arguments.repetitions):
            for name in arguments.configurations:
                command = [sys.executable, __file__, "--threads", str(arguments.threads), "--one", name, str(tokens)]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name].append(json.loads(result.stdout.splitlines()[-1]))
        base = found["stock"] if "stock" in found else found[arguments.configurations[0]]

        def typical(rows: list[dict[str, float]], key: str) -> float:
            return statistics.median(row[key] for row in rows)

        for name, rows in found.items():
            ratio = {
                key: typical(rows, key) / typical(base, key) for key in ("prefill", "step", "held", "peak_held", "peak")
            }
            print(
                f"| {tokens} | {name} | {typical(rows, 'prefill'):.2f} s = {ratio['prefill']:.2f}x "
                f"| {1e3 * typical(rows, 'step'):.1f} ms = {ratio['step']:.2f}x | {ratio['held']:.2f}x "
                f"| {ratio['peak_held']:.2f}x | {typical(rows, 'state') / typical(base, 'held'):.2f}x "
                f"| {ratio['peak']:.2f}x | {100 * typical(rows, 'kept'):.0f}% |",
                flush=True,
            )


if __name__ == "__main__":
    main()
