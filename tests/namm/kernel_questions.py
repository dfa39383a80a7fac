"""What test_kernels.py asks of Triton in a process of its own; prints one JSON object.

Triton decides when a kernel is defined whether it is interpreted, and reads a kernel's own text, which the checks of
shapes in tests would wrap.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton

from namm import NAMM, Memory
from namm.kernels.choice import can_fold, worst_difference
from namm.policies import make_policy

CASES = (
    (64, 1, 1, False, torch.float32), (80, 2, 33, False, torch.float16), (96, 3, 20, True, torch.float32),
    (128, 8, 9, False, torch.float16), (256, 5, 32, True, torch.float16), (8, 7, 40, False, torch.float32),
    (64, 4, 31, False, torch.float16), (64, 6, 5, True, torch.float32),
)  # fmt: skip
"""Width, group, tokens, capped, type; Triton's interpreter takes bits of bf16 for integers in a product."""


def differences() -> dict[str, float]:
    """Of kernel and definition."""
    return {
        f"{head_dim} wide, group {group}, {slots} tokens, {dtype}": worst_difference(
            torch.device("cpu"), dtype, head_dim, group, capped, slots=slots, frames=2
        )
        for head_dim, group, slots, capped, dtype in CASES
    }


def kept(switch: str) -> tuple[list[list[int]], list[float]]:
    """What a memory keeps of two sequences that differ in length, and the state that it carries; heads are ragged."""
    os.environ["NAMM_KERNELS"] = switch
    namm = NAMM(flat=0.5 * torch.randn(NAMM().flat.shape, generator=torch.Generator().manual_seed(3)))
    policy = make_policy("namm", namm=namm, interval=32, statistics="sequence", protected_last=0)
    memory, random = Memory(policy), torch.Generator().manual_seed(4)
    for tokens in (38, 1, 27):
        query = torch.randn(2, 4, tokens, 16, generator=random)
        key, value = (torch.randn(2, 2, tokens, 16, generator=random) for _ in range(2))
        padding = torch.ones(2, tokens, dtype=torch.bool)
        padding[1, : tokens // 3] = False
        memory.attend(0, 3 * query, key, value, padding)
    positions, cache = memory.kept_positions(0), memory.layers[0].cache
    slots = cache.slots().flatten().tolist()
    return [slots, *positions.flatten(0, 1).tolist()], cache.state["spectrum"].flatten().tolist()


def compiled(capability: int) -> dict[str, int]:
    """What the kernel needs of a GPU that need not be here: registers, bytes spilled and of shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from namm.kernels import fold

    constants = fold.constants(head_dim=128, group=4, bins=17, causal=True, capped=False)
    kinds = {"key_ptr": "*bf16", "query_ptr": "*bf16", "scale": "fp32", "cap": "fp32", "carry": "fp32"}
    names = fold.fold_kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in names
    }
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name.endswith("_ptr")}
    kernel = triton.compile(
        ASTSource(fold.fold_kernel, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": fold.WARPS, "num_stages": fold.STAGES},
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    found = dict(word.split(":") for word in usage if word.count(":") == 1 and word.split(":")[1].isdigit())
    return {"registers": int(found["REG"]), "spilled": int(found["STACK"]), "shared": kernel.metadata.shared}


def main() -> None:
    """Asks what the command line says: `compiled`, or all else."""
    if sys.argv[1:] == ["compiled"]:
        print(json.dumps({capability: compiled(capability) for capability in (80, 90, 100)}))
        return
    fused = can_fold(torch.zeros(1, 1, 1, 16), 2, 16, False)
    print(json.dumps({"differences": differences(), "fused": fused, "with": kept("on"), "without": kept("off")}))


if __name__ == "__main__":
    main()
