"""Gives a lookup machine a memory; registered as an entry point of the group `namm.modalities`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modalities.base import Adapter
from modalities.conformance.subject import Subject
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
        def run(ids: Tensor, mask: Tensor | None, cache: Any) -> tuple[Tensor, Any]:
            if cache is None and model.memory is not None:
                model.memory.reset()
            return model(ids, mask, cache), ids if cache is None else torch.cat([cache, ids], dim=1)

        def fingerprint() -> str:
            content = (model.embedding.weight.tolist(), sorted(map(str, vars(model))), model.memory is None)
            return hashlib.sha256(repr(content).encode()).hexdigest()

        return Subject(
            name=name or type(model).__name__,
            run=run,
            attach=lambda policy: self.attach(model, policy),
            generate=None,
            fingerprint=fingerprint,
            tokens=torch.arange(ASK),
            tolerance=2e-4,
        )
