"""Which devices run kernels that were written for GPUs, and what is said where one is found wrong.

A kernel is used only once its answer to a small question has agreed with its definition's on the device itself, so that
one which does not compile there, does not run, or is wrong, costs speed and a warning, never a result.
`NAMM_KERNELS=off` in the environment keeps to the definitions.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import torch

LEAST_CAPABILITY = (8, 0)
"""Of a CUDA device: tensor cores that multiply tf32 and bf16."""


def switched_off() -> bool:
    """Whether the environment asks for definitions only."""
    return os.environ.get("NAMM_KERNELS") == "off"


def is_modern(device: torch.device, least: tuple[int, int] = LEAST_CAPABILITY) -> bool:
    """Whether this is a CUDA device of a compute capability, or a later one."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= least


def agrees(name: str, device: torch.device, difference: Callable[[], float], allowed: float) -> bool:
    """Whether a kernel's answer is near enough to its definition's; a warning says so where not.

    Args:
        name: What the kernel does.
        device: Where it would be used.
        difference: Asks both, and gives the largest difference.
        allowed: How large that may be.
    """
    try:
        off = difference()
    except Exception as error:  # whatever a compiler or driver can raise: the definition needs neither
        why = f"does not run there ({type(error).__name__}: {error})"
    else:
        if off <= allowed:  # NaN is not
            return True
        why = f"is off by {off:.1e} there, {allowed:.0e} is allowed"
    warnings.warn(
        f"{name} is not used on {device}: it {why}. Torch computes the same in steps, slower; set NAMM_KERNELS=off to "
        "choose that without this warning.",
        stacklevel=4,
    )
    return False
