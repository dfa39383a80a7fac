"""Gives a lookup machine a memory; registered as an entry point of the group `namm.modalities`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import nn

from modalities.base import Adapter
from modalities.conformance.subject import Subject, module_subject
from namm import Memory
from namm.errors import AttachError
from namm.policies import Policy
from riddles.model import ASK, LookupMachine


class LookupAdapter(Adapter):
    """Lookup machines."""

    name: ClassVar[str] = "lookup machines"

    def takes(self, model: nn.Module) -> bool:
        return isinstance(model, LookupMachine)

    @contextmanager
    def attach(self, model: nn.Module, policy: Policy, *, store: str = "packed") -> Iterator[Memory]:
        if model.memory is not None:
            raise AttachError("The lookup machine is attached already; leave the first `with attach(...)` block.")
        model.memory = Memory(policy, depth=1, store=store)
        try:
            yield model.memory
        finally:
            model.memory = None

    def subject(self, model: nn.Module, name: str | None = None) -> Subject:
        return module_subject(model, lambda policy: self.attach(model, policy), model, tokens=ASK, name=name)
