"""Reads checkpoints of the released trainer (``ckpt.pt``, ``latest.pt``, ``iter_N.pt``): evolution state to NAMM.

    python -m namm.compat ckpt.pt checkpoints/namm/mine

The file is a pickle, so it is read with torch's restricted unpickler: tensors and plain containers, and beside them
only the numpy float that the trainer writes. Nothing in a file can run. It holds what was evolved (the distribution's
mean is deployed) and the frozen feature statistics; every constant around them it does not, and is the released one.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from namm.config import NAMMConfig
from namm.errors import CheckpointError, NammError
from namm.features import MIN_DEVIATION, FeatureStatistics
from namm.model import NAMM
from namm.terminal import any_terminal

STATE = "evolution_state"
PARAMETERS = "mean"
STATISTICS_MEAN = "stored_buffers_to_save.token_embedding_0_output_mean"
STATISTICS_VARIANCE = "stored_buffers_to_save.token_embedding_0_output_var"
COMPILED = "_orig_mod."
"""Prefix of the keys of a policy that was compiled."""


def read_released(path: str | Path) -> NAMM:
    """The NAMM that a checkpoint of the released trainer would deploy.

    Args:
        path: A file that its trainer wrote.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, or would execute something.
    """
    path = Path(path)
    state = {str(name).removeprefix(COMPILED): value for name, value in _evolution_state(path).items()}
    bins = NAMMConfig.preset("released").bins
    flat = _numbers(path, state, PARAMETERS).flatten()
    mean = _numbers(path, state, STATISTICS_MEAN, bins).view(1, bins)
    variance = _numbers(path, state, STATISTICS_VARIANCE, bins).view(1, bins)
    if bool((variance < 0).any()):
        raise CheckpointError(f"{path}: {STATISTICS_VARIANCE} holds a negative variance; the file is damaged.")
    config = dataclasses.replace(NAMMConfig.preset("released"), hidden=_hidden(path, flat.shape[0]))
    return NAMM(config, flat, FeatureStatistics(mean, variance.sqrt().clamp_min(MIN_DEVIATION)))


def _evolution_state(path: Path) -> Mapping[Any, Any]:
    """The trainer's evolution state, unpickled without the power to run anything."""
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"Expected a checkpoint of the released trainer at {path}; there is no file.") from None
    except IsADirectoryError:
        raise CheckpointError(
            f"Expected one file of the released trainer, found the folder {path}; a folder with config.json and "
            "model.safetensors is read by NAMM.from_pretrained."
        ) from None
    except Exception as error:  # a damaged file makes an unpickler raise anything
        raise CheckpointError(
            f"{path} is not a whole checkpoint of the released trainer: expected tensors and plain numbers as "
            f"torch.save writes them, found that {_reason(error)}. Nothing in it was executed; copy it again, and open "
            "it in no other way unless you trust its source."
        ) from error
    state = content.get(STATE) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        found = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint of the released trainer: expected the key '{STATE}' with tensors under it, "
            f"found {found}. A rng_*.pt beside it is not one either; take ckpt.pt."
        )
    return state


def _numbers(path: Path, state: Mapping[str, Any], name: str, count: int | None = None) -> Float[Tensor, "*shape"]:
    """A tensor of the state, in fp32."""
    value = state.get(name)
    if value is None:
        hint = (
            "it was saved before the first evaluation froze the statistics"
            if name != PARAMETERS
            else "it holds no search"
        )
        raise CheckpointError(
            f"{path} lacks '{STATE}.{name}': {hint}; take a checkpoint of a later iteration. Keys found: "
            f"{', '.join(sorted(state)[:6])}, ..."
        )
    if not isinstance(value, Tensor) or not value.is_floating_point() or (count is not None and value.numel() != count):
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        wanted = "a vector of floats" if count is None else f"{count} floats"
        raise CheckpointError(f"{path}: expected {wanted} in '{name}', found {found}; its policy is of another kind.")
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{path}: '{name}' holds NaN or infinity; the checkpoint is damaged.")
    return value.detach().float().contiguous()


def _hidden(path: Path, params: int) -> int:
    """Width of the scorer's attention, from the number of parameters: ``128 h + 76`` with 25 features."""
    width = NAMMConfig.preset("released").features
    fixed, each = 2 * width + width + 1, 3 * width + 3 + 2 * width
    hidden, rest = divmod(params - fixed, each)
    if rest or hidden < 1:
        raise CheckpointError(
            f"{path}: {params} parameters fit no scorer with biased backward attention over {width} features "
            f"({each} * hidden + {fixed}; 4172 for the released width of 32)."
        )
    return hidden


def _numpy_scalars() -> list[Any]:
    """What a pickled ``numpy.float64`` names: numpy's maker of scalars, as numpy 1 and 2 call it, and the type."""
    scalar = np.float64(0.0).__reduce__()[0]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
    ]


def _reason(error: BaseException) -> str:
    """What torch found wrong, without its advice to load unsafely."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return f"it names {named[1]}, which is neither"
    told = text.split("WeightsUnpickler error:")[-1].strip().splitlines() or [type(error).__name__]
    return f"it cannot be read ({told[0].partition('. In PyTorch 2.6')[0][:200]})"


def main(argv: Sequence[str] | None = None) -> int:
    """Converts a file to a checkpoint folder; returns the exit code: 0, or 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m namm.compat", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a file of the released trainer, such as ckpt.pt")
    parser.add_argument("folder", type=Path, help="where config.json and model.safetensors are written")
    with any_terminal():
        arguments = parser.parse_args(argv)
        try:
            namm = read_released(arguments.checkpoint)
            namm.save_pretrained(arguments.folder)
        except NammError as error:
            print(error, file=sys.stderr)
            return 2
        print(f"{arguments.folder}: {namm.flat.shape[0]} parameters, sha256 {namm.sha256()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
