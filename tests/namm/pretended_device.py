"""A device that does not exist: torch takes its tensors to lie elsewhere, and they lie in the CPU's memory all along.

It is as strict as a GPU and stricter: an operation that gets a tensor of it beside one of the CPU's (numbers alone
excepted) is refused, and whatever makes a program wait for a GPU is counted: numbers and tensors that come back, and
operations whose result has a size that only the device knows. Importing this module takes torch's only free name for a
device, so that it needs a process of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
_setup_privateuseone_for_python_backend(NAME)

WAITS: Counter[str] = Counter()
"""Since it was last cleared: what made the program wait, by the name of the operation."""
COPIES: Counter[str] = Counter()
"""Likewise: copies to the device, for which a program waits only a little."""
SIZED_BY_DATA = {
    "aten.nonzero.default", "aten.masked_select.default", "aten._unique2.default", "aten.unique_consecutive.default",
    "aten.unique_dim.default", "aten.repeat_interleave.Tensor",
}  # fmt: skip
INDEXED = {"aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default"}


class Far(torch.Tensor):
    """A tensor on the device; what it holds is ``near``."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        far = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=NAME
        )
        far.near = near
        return far

    def tolist(self) -> Any:
        """The numbers, which are waited for."""
        WAITS["tolist"] += 1
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """One operation, on what its tensors hold."""
    name = str(func)
    leaves, spec = tree_flatten((args, kwargs))
    owners = {id(leaf.near): leaf for leaf in leaves if isinstance(leaf, Far)}
    near = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Far) and leaf.dim()]
    if owners and near and name != "aten.copy_.default":
        raise RuntimeError(f"Expected all tensors on one device, found {NAME} and cpu in {name}")
    comes_back = "device" in kwargs and torch.device(kwargs["device"] or NAME).type == "cpu"
    if name == "aten.copy_.default":
        comes_back = not isinstance(args[0], Far)
        COPIES[name] += not comes_back and not isinstance(args[1], Far)
    if comes_back or name == "aten._local_scalar_dense.default" or name in SIZED_BY_DATA:
        WAITS[name] += 1
    if name in INDEXED and any(index is not None and index.dtype == torch.bool for index in args[1]):
        WAITS[f"{name} by a mask"] += 1
    inner = [leaf.near if isinstance(leaf, Far) else leaf for leaf in leaves]
    inner = [torch.device("cpu") if isinstance(leaf, torch.device) else leaf for leaf in inner]
    near_args, near_kwargs = tree_unflatten(inner, spec)
    out = func(*near_args, **near_kwargs)
    if any(owner.near.shape != owner.shape for owner in owners.values()):
        raise RuntimeError(f"{name} has changed a tensor's size, which the pretended one keeps")

    def far(result: Any) -> Any:
        if not isinstance(result, torch.Tensor) or comes_back:
            return result
        return owners[id(result)] if id(result) in owners else Far(result)

    return tree_map(far, out)


def _made(maker: Callable[..., torch.Tensor]) -> Callable[..., Far]:
    """A factory in place of torch's own, which makes an empty tensor and changes its size."""
    return lambda *numbers, **options: Far(maker(*numbers, dtype=options.get("dtype")))


_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
_ATEN = torch.library.Library("aten", "IMPL")
for _name in ("arange", "arange.start", "arange.start_step", "eye", "eye.m"):
    _ATEN.impl(_name, _made(getattr(torch, _name.partition(".")[0])), "PrivateUse1")
