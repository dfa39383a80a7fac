"""The device that a user named, if it is there."""

from __future__ import annotations

import torch

from namm.errors import ConfigError


def check_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        ConfigError: If it is not there.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"The device must be cpu, cuda or another that torch sees, found {name!r} ({reason})."
        ) from error
    return device


def own_device(name: str, index: int) -> torch.device:
    """The device of one process among several: `cuda` is a GPU each, where there are several.

    Args:
        name: As the user gave it.
        index: Of the process among those of this machine.

    Raises:
        ConfigError: If it is not there.
    """
    device = check_device(name)
    if device.type != "cuda" or device.index is not None:  # pyright: ignore[reportUnnecessaryComparison] - None: torch's stubs are wrong
        return device
    return torch.device("cuda", index % torch.cuda.device_count())
