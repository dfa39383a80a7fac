"""The transformers model inside of what is wrapped around it, and the modules through which calls reach it.

`torch.compile`, DataParallel and PEFT put a module of their own in front of a model. Some call the model, and its hooks
run; some call its ``forward`` and pass its hooks by. Which door a call takes is known here, so that whoever attaches
need not know it.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from namm.errors import AttachError

PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def unwrapped(model: Any) -> tuple[PreTrainedModel, list[nn.Module]]:
    """The transformers model, and the modules whose calls must be prepared, itself among them.

    Args:
        model: A transformers model, or one that torch.compile, DataParallel or PEFT has wrapped.

    Raises:
        AttachError: It is something else; the message names what to attach.
    """
    doors: list[nn.Module] = []
    inner = model
    while not isinstance(inner, PreTrainedModel):
        name = type(inner).__name__
        if name == "OptimizedModule":
            doors.append(inner)
            inner = inner._orig_mod
        elif hasattr(inner, "get_base_model") and hasattr(inner, "peft_config"):
            # a tuner calls the forward of what it adapts, past that module's hooks; generate() does not
            doors.append(inner.base_model)
            inner = inner.get_base_model()
        elif name in PARALLEL and len(getattr(inner, "device_ids", None) or ()) <= 1:
            inner = inner.module
        else:
            raise AttachError(f"Expected a transformers PreTrainedModel, found {name}{_advice(inner)}")
    return inner, [*(door for door in doors if door is not inner), inner]


def holds_decoder(model: Any) -> bool:
    """Whether something is a transformers model, or has one inside, so that `unwrapped` can say which to attach."""
    return isinstance(model, PreTrainedModel) or any(isinstance(part, PreTrainedModel) for _, part in _parts(model))


def _advice(found: Any) -> str:
    """What to do with something that is no transformers model."""
    if type(found).__name__ in PARALLEL:
        return (
            f" over devices {found.device_ids}, whose copies would share one memory. Attach to its .module, and run "
            "that (device_map='auto' spreads layers over devices)."
        )
    name = next((name for name, part in _parts(found) if isinstance(part, PreTrainedModel)), None)
    if name is not None:
        return f"; it holds a model: attach to its .{name}, and call that, or what calls it."
    return "; write an adapter that calls memory.attend in its attention layers."


def _parts(found: Any) -> list[tuple[str, Any]]:
    """What an object holds, the outermost first."""
    if isinstance(found, nn.Module):
        return [(name, part) for name, part in found.named_modules() if name]
    return list(getattr(found, "__dict__", {}).items())
