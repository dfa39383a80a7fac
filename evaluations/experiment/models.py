"""Where, and in which floating-point type, a language model is loaded for an experiment."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from evaluations.commands.devices import own_device
from modalities.pretrained.loading import moved
from modalities.pretrained.precision import quick_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = MappingProxyType(
    {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)
"""By the words of a command line."""


def load_placed(read: Callable[..., PreTrainedModel], dtype: str, device: str, index: int) -> PreTrainedModel:
    """A model, ready for inference, where a user wants it.

    Args:
        read: Loads it, given `dtype` and perhaps `device_map` as `from_pretrained` has them.
        dtype: One of `DTYPES`; auto is what its checkpoint says, but float32 where a CPU only emulates that.
        device: cpu, cuda, cuda:1, ..., or auto: accelerate spreads the layers over all devices.
        index: Of this process among those of this machine; where there are several GPUs, each gets its own.

    Raises:
        NammError: The device is not there, or whatever `read` raises.
    """
    options: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if device == "auto":
        return read(**options, device_map="auto").eval()
    where = own_device(device, index)  # asked first: a mistake is told before a large file is read
    model = read(**options)
    if dtype == "auto":
        model = moved(model, quick_dtype(model.dtype, where))
    return moved(model, where).eval()
