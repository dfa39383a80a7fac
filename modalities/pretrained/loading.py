"""Loads a causal language model or its configuration by the name that a user gives.

A model whose files lack weights is refused: transformers would fill them with random numbers and go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from modalities.pretrained.gguf_file import check_gguf
from modalities.pretrained.names import Located, locate
from modalities.pretrained.published import PUBLISHED
from namm.errors import CheckpointError, did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

WHAT = "a causal language model (a folder, a Hub id, FILE.gguf, or one of " + ", ".join(PUBLISHED) + ")"
UNREADABLE = (OSError, ValueError, KeyError, NotImplementedError, RuntimeError, SafetensorError)
"""What transformers raises at files that it cannot use."""
GGUF_DTYPES = {"F32": torch.float32, "F16": torch.float16}
"""What `auto` means for a GGUF file whose numbers are mostly of that type; bfloat16 for all others."""


def load_config(name: str | Located, **options: Any) -> PretrainedConfig:
    """A model's configuration, without its weights.

    Args:
        name: A folder, a Hub id, a GGUF file or a published model's name, or where that is.
        options: For `from_pretrained`.

    Raises:
        NammError: There is no such model, or its files cannot be used.
    """
    from transformers import AutoConfig

    located = _located(name)
    return _read(AutoConfig.from_pretrained, located, options)


def load_model(name: str | Located, dtype: torch.dtype | str = "auto", **options: Any) -> PreTrainedModel:
    """A causal language model, ready for inference.

    Args:
        name: A folder, a Hub id, a GGUF file or a published model's name, or where that is.
        dtype: Of the weights; "auto" is what the checkpoint says. GGUF files are unpacked to it.
        options: For `from_pretrained`, such as `device_map`.

    Raises:
        NammError: There is no such model, its files cannot be used, or they lack weights.
    """
    from transformers import AutoModelForCausalLM  # after modalities, which makes it importable beside a CPU torch

    located = _located(name)
    if located.gguf is None:
        options = {"use_safetensors": True, **options}
    else:
        options = {**_unpacked(), **options}
        if dtype == "auto" and located.folder is not None:
            dtype = GGUF_DTYPES.get(check_gguf(located.folder / located.gguf).main_type, torch.bfloat16)
    model, told = _read(
        AutoModelForCausalLM.from_pretrained, located, {"dtype": dtype, "output_loading_info": True, **options}
    )
    if missing := sorted(told["missing_keys"]):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise CheckpointError(
            f"The files of {located.name} lack {len(missing)} of the weights that its configuration asks for "
            f"({shown}), which would be random; fetch them again, or pass a model for causal language modelling."
        )
    if located.gguf is not None:
        _check_numbers(model, located)
    return model.eval()


def _located(name: str | Located) -> Located:
    return name if isinstance(name, Located) else locate(name)


def _unpacked() -> dict[str, Any]:
    """Plain weights, which can be moved, converted and saved, in releases of transformers that can keep them packed."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _read(read: Callable[..., Any], located: Located, options: dict[str, Any]) -> Any:
    try:
        return read(located.source, **located.options, **options)
    except UNREADABLE as error:
        named = located.gguf or located.source
        hint = f" {did_you_mean(named, PUBLISHED)}" if located.folder is None and "/" not in named else ""
        raise CheckpointError(f"Expected {WHAT} at {named!r}, found none: {_line(error)}{hint}") from error


def _check_numbers(model: PreTrainedModel, located: Located) -> None:
    """Damage within blocks shows as numbers that are none; a GGUF file carries no digest that would tell the rest."""
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise CheckpointError(f"{located.gguf} is damaged: {name} has values that are not finite; fetch it again.")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def moved(model: PreTrainedModel, where: torch.device | torch.dtype) -> PreTrainedModel:
    """The model, moved to a device, or to a type."""
    return model.to(where)  # pyright: ignore[reportArgumentType] - transformers wraps torch's `to` without its types
