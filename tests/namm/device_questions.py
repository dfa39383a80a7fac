"""What test_devices.py asks in a process that has a pretended device; prints one JSON object."""

from __future__ import annotations

import json

import torch

from namm import Memory
from namm.policies import POLICIES
from tests.namm.device_reading import RULES, compared
from tests.namm.pretended_device import COPIES, NAME, WAITS
from tests.namm.test_memory import any_policy, random_qkv, telling

WATCHED = ("full", "namm", "h2o", "adakv", "kvzip", "fastv")
"""Policies whose waits are counted: of each way to judge one."""


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
    wrong = {f"{name}, packed": compared(name, "packed", NAME) for name in POLICIES}
    wrong |= {f"{name}, padded": compared(name, "padded", NAME) for name in ("namm", "h2o", "window")}
    for name, rule in RULES.items():
        wrong |= {f"{policy}, {name}": compared(policy, "packed", NAME, rule()) for policy in ("namm", "full")}
    print(json.dumps({"wrong": wrong, "waits": {name: waits(name) for name in WATCHED}, "refused": refused()}))


if __name__ == "__main__":
    main()
