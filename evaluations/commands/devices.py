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
