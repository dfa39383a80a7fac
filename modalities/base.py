"""What a kind of model must offer to be given a memory, and who offers it.

An `Adapter` takes one kind of model: it lets a policy govern the model's memory for the length of a `with` block, and
shows how the model is examined (modalities/conformance). Hugging Face's decoders are taken by ours; another package
brings its own by an entry point of the group `namm.modalities`, or by `register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from namm import NAMM, Memory
from namm.errors import AttachError
from namm.outside import brought
from namm.policies import Policy, make_policy

if TYPE_CHECKING:
    from modalities.conformance.subject import Subject

GROUP = "namm.modalities"
"""Entry points of packages that bring adapters of their own; each names a subclass of `Adapter`."""


class Adapter(ABC):
    """One kind of model. Subclasses are final and take no arguments; they keep nothing between calls."""

    name: ClassVar[str]
    """What it is called in messages."""

    @abstractmethod
    def takes(self, model: Any) -> bool:
        """Whether a model is of this kind; asked of anything that a user passes."""

    @abstractmethod
    def attach(self, model: Any, policy: Policy, *, store: str = "packed") -> AbstractContextManager[Memory]:
        """Lets a policy govern the model's memory inside a `with` block; on exit the model is as before.

        Inside it every attention layer calls `memory.attend(layer, query, key, value, padding)` in place of scaled
        dot-product attention, and whoever feeds the model takes positions from `memory.seen`.

        Raises:
            AttachError: The model cannot be driven exactly.
        """

    @abstractmethod
    def subject(self, model: Any, name: str | None = None) -> Subject:
        """The model as it is examined: how it is run, attached and told from what it was before."""


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Adds an adapter to this process, before those that are there; as a decorator it gives the class back."""
    adapters().insert(0, adapter())
    return adapter


@cache
def adapters() -> list[Adapter]:
    """Every adapter that is known; those of other packages are asked first."""
    from modalities.huggingface.adapter import HuggingFace
    from modalities.own import OwnModels

    outside = []
    for one in brought(GROUP):
        if isinstance(one.thing, type) and issubclass(one.thing, Adapter):
            outside.append(one.thing())
        else:
            one.leave_out(f"expected a subclass of Adapter, found {one.thing!r}")
    return [*outside, OwnModels(), HuggingFace()]


def adapter_of(model: Any) -> Adapter:
    """The adapter that takes a model.

    Raises:
        AttachError: None does.
    """
    found = next((adapter for adapter in adapters() if adapter.takes(model)), None)
    if found is None:
        kinds = ", ".join(adapter.name for adapter in adapters())
        raise AttachError(
            f"Expected a model that an adapter takes ({kinds}), found {type(model).__name__}; write an adapter that "
            f"calls memory.attend in its attention layers, and register it (entry points of the group {GROUP})."
        )
    return found


def attach(
    model: Any, policy: Policy | NAMM, *, store: str = "packed", **options: Any
) -> AbstractContextManager[Memory]:
    """Lets a policy govern the memory of a model of any kind for the length of a ``with`` block.

    Args:
        model: Any Hugging Face decoder, or what another adapter takes.
        policy: A policy, or a NAMM to be used at its checkpoint's interval with the released selection rule.
        store: How the memory holds what is kept, "packed" or "padded" (:class:`namm.Memory`).
        options: For a NAMM: options of :func:`namm.policies.make_policy` (``interval``, ``statistics``, ...).

    Returns:
        A context that yields the memory, for reports; see :meth:`Adapter.attach` for what happens inside.

    Raises:
        AttachError: No adapter takes the model, or it cannot be driven exactly.
    """
    return adapter_of(model).attach(model, as_policy(policy, options), store=store)


def as_policy(policy: Policy | NAMM, options: Mapping[str, Any]) -> Policy:
    """A policy as it is, or a NAMM with options as one.

    Raises:
        AttachError: There are options for what is a policy already.
    """
    if isinstance(policy, NAMM):
        return make_policy("namm", namm=policy, **{"interval": policy.config.interval, **options})
    if options:
        raise AttachError(f"Options {sorted(options)} go with a NAMM; give them to make_policy instead.")
    return policy
