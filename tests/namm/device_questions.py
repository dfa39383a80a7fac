"""What test_devices.py asks in a process that has a pretended device; prints one JSON object."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

from namm import Memory
from namm.policies import POLICIES
from namm.rules import PLAIN, AttentionRule, Local
from tests.namm.pretended_device import COPIES, NAME, WAITS
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


def compared(policy: str, store: str, rule: AttentionRule = PLAIN) -> str:
    """Empty where the device gave what the CPU gives, else what was wrong."""
    try:
        near, far = read(policy, store, "cpu", rule), read(policy, store, NAME, rule)
    except Exception:
        return traceback.format_exc()
    if near.slots != far.slots or not torch.equal(near.kept, far.kept):
        return f"kept {far.kept.tolist()}, not {near.kept.tolist()}"
    worst = max(float((one - other).abs().max()) for one, other in zip(near.outputs, far.outputs, strict=True))
    return "" if worst < 1e-4 else f"an output is off by {worst}"


def waits(policy: str) -> dict[str, dict[str, int]]:
    """What makes the program wait in each call, and what is copied to the device: decoding, then an update."""
    memory = telling(Memory(any_policy(policy, 32, budget=20), depth=1), 2, 2, width=16)
    found = {}
    for name, tokens in (("first", 32), ("step", 1), ("next", 1), ("update", 30)):
        tensors = [tensor.to(NAME) for tensor in random_qkv(2, 2, 2, tokens, 16, seed=tokens)]
        if memory.policy.reads_tokens:
            memory.tell_tokens(torch.zeros(2, tokens, dtype=torch.long, device=NAME))
        WAITS.clear()
        COPIES.clear()
        memory.attend(0, *tensors)
        found[name] = {key: count for key, count in WAITS.items() if count}
        found[f"{name} copies"] = {key: count for key, count in COPIES.items() if count}
    return found


def refused() -> list[str]:
    """What the device says to a stray tensor of the CPU: that it says it is what makes the rest worth anything."""
    here, there, said = torch.ones(3), torch.ones(3, device=NAME), []
    for mix in (lambda: there + here, lambda: there[torch.tensor([0])], lambda: torch.cat([here, there])):
        try:
            mix()
        except RuntimeError as error:
            said.append(str(error))
    return said


@torch.no_grad()
def main() -> None:
    """Asks all."""
    wrong = {f"{name}, packed": compared(name, "packed") for name in POLICIES}
    wrong |= {f"{name}, padded": compared(name, "padded") for name in ("namm", "h2o", "window")}
    for name, rule in RULES.items():
        wrong |= {f"{policy}, {name}": compared(policy, "packed", rule()) for policy in ("namm", "full")}
    print(json.dumps({"wrong": wrong, "waits": {name: waits(name) for name in POLICIES}, "refused": refused()}))


if __name__ == "__main__":
    main()
