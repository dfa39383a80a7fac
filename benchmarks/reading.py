"""What share of the processor's peak reading a real model's prompts reaches: `python benchmarks/reading.py`.

Also candidates of an evolution side by side on one prompt, which is what `namm-evolve` does on a real model.

The peak is that of square matrix products in the same type, on one thread, measured here. Work is counted as two
operations a weight and token (embeddings left out) and the products of attention; time is processor time, so that
others on the machine disturb less. Ratios are what counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro

import modalities  # noqa: F401  (before transformers)
from modalities.language.prompts import Group, Prompt
from modalities.language.reading import read
from modalities.language.recall import recall
from modalities.pretrained import load_model
from modalities.pretrained.precision import matmul_rate
from namm import NAMM
from namm.policies import make_policy


@dataclass(frozen=True)
class Options:
    """What is read."""

    model: str = "smollm2"
    """As everywhere: a folder, a Hub id, FILE.gguf, a published name."""
    namm: str = "checkpoints/namm/text-v2"
    """Folder of a NAMM."""
    length: int = 512
    """Tokens of a context."""
    prompts: tuple[int, ...] = (1, 4)
    """Side by side."""
    candidates: int = 16
    """Judges of one prompt, side by side."""
    interval: int = 64
    """Tokens between two updates."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    """Types to compare."""


def operations(model: Any, length: int) -> float:
    """Floating-point operations of a token of a context of so many, the mean over the context."""
    config = model.config.get_text_config()
    weights = sum(weight.numel() for name, weight in model.named_parameters() if "embed" not in name)
    wide = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    return 2.0 * weights + 4.0 * config.num_hidden_layers * wide * length / 2


def seconds(work: Callable[[], object]) -> float:
    """Processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def told(name: str, rate: float, each: float, peak: float) -> None:
    """A line of the table."""
    print(f"  {name:28} {rate:8.1f} tokens/s {100 * rate * each / peak:6.1f}% of peak", flush=True)


@torch.inference_mode()
def main() -> None:
    """Prints a table for each type."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    namm = NAMM.from_pretrained(options.namm)
    for dtype in options.dtypes:
        model = load_model(options.model, getattr(torch, dtype))
        peak, each = matmul_rate(getattr(torch, dtype), 1024), operations(model, options.length)
        print(f"\n{dtype}: peak {peak / 1e9:.1f} GFLOP/s, {each / 1e9:.3f} GFLOP a token", flush=True)
        for rows in options.prompts:
            ids = torch.randint(10, 1000, (rows, options.length), generator=torch.Generator().manual_seed(0))
            prompts = [Prompt(tuple(row), (1,)) for row in ids.tolist()]
            groups = [Group((place,), options.length, place) for place in range(rows)]

            def under(policy: Any, prompts: Any = prompts, groups: Any = groups, model: Any = model) -> object:
                return read(model, policy, prompts, groups)

            works: dict[str, Callable[[], object]] = {
                "stock, all logits": lambda ids=ids, model=model: model(ids, use_cache=True),
                "stock, last logits": lambda ids=ids, model=model: model(ids, use_cache=True, logits_to_keep=1),
                "full": lambda: under(make_policy("full")),
                "keydiff": lambda: under(make_policy("keydiff", interval=options.interval, budget=options.length // 4)),
                "namm": lambda: under(make_policy("namm", namm=namm, statistics="sequence", interval=options.interval)),
            }
            for name, work in works.items():
                told(f"{rows} x {name}", rows * options.length / seconds(work), each, peak)
        many = options.candidates
        ids = torch.randint(10, 1000, (1, options.length)).repeat(many, 1)
        judges = make_policy(
            "namm", namm=namm, statistics="sequence", interval=options.interval,
            population=namm.flat.repeat(many, 1), candidate=torch.arange(many),
        )  # fmt: skip
        taken = seconds(lambda: recall(model, judges, ids, ids[:, :1], ids[:, :1], copies=many))  # noqa: B023
        told(f"1 x namm, {many} candidates", many * options.length / taken, each, peak)


if __name__ == "__main__":
    main()
