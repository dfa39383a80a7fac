"""One reading by any policy on any device, compared with the same on the CPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

from namm import Memory
from namm.rules import PLAIN, AttentionRule, Local
from tests.namm.test_memory import any_policy, random_qkv, telling

CALLS = (40, 1, 9, 70)
"""Tokens of each: pieces, a single token, a call within an interval, one over two of them."""
RULES: dict[str, Callable[[], AttentionRule]] = {
    "window": lambda: AttentionRule(local=Local(24)),
    "chunks": lambda: AttentionRule(local=Local(24, chunked=True)),
    "softcap": lambda: AttentionRule(softcap=5.0),
    "sinks": lambda: AttentionRule(sinks=torch.randn(4, generator=torch.Generator().manual_seed(0))),
}


@dataclass
class Read:
    """What came of a reading."""

    outputs: list[torch.Tensor]
    kept: torch.Tensor
    slots: list[int]


def read(policy: str, store: str, device: str, rule: AttentionRule = PLAIN) -> Read:
    """Reads two sequences of different lengths, forks, repeats and drops rows, and reads on."""
    memory = telling(Memory(any_policy(policy, 32, budget=20), depth=1, store=store), 2, 2, width=16)
    outputs = []
    for seed, tokens in enumerate(CALLS):
        rows = 2 if seed < 3 else 3
        padding = torch.ones(rows, tokens, dtype=torch.bool)
        padding[1, : tokens // 4] = False
        if seed == 3:
            memory = memory.fork()
            memory.select_sequences(torch.tensor([0, 1, 1]))
        if memory.policy.reads_tokens:
            ids = torch.randint(0, 50, (rows, tokens), generator=torch.Generator().manual_seed(seed))
            memory.tell_tokens(ids.to(device), padding.to(device))
        tensors = [tensor.to(device) for tensor in random_qkv(rows, 2, 2, tokens, 16, seed=seed)]
        outputs.append(memory.attend(0, *tensors, padding=padding.to(device), rule=rule).cpu())
    memory.report()
    return Read(outputs, memory.kept_positions(0), memory.slots().flatten().tolist())


def compared(policy: str, store: str, device: str, rule: AttentionRule = PLAIN, allowed: float = 1e-4) -> str:
    """Empty where a device gave what the CPU gives, else what was wrong."""
    try:
        near, far = read(policy, store, "cpu", rule), read(policy, store, device, rule)
    except Exception:
        return traceback.format_exc()
    if near.slots != far.slots or not torch.equal(near.kept, far.kept):
        return f"kept {far.kept.tolist()}, not {near.kept.tolist()}"
    worst = max(float((one - other).abs().max()) for one, other in zip(near.outputs, far.outputs, strict=True))
    return "" if worst < allowed else f"an output is off by {worst}"
