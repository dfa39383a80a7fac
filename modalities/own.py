"""Models that call `memory.attend` themselves: any torch module with an attribute `memory`, None by default.

Their attention asks `self.memory` in place of scaled dot-product attention where there is one; nothing else is needed,
and no adapter. Inside `attach` they are fed new tokens only, and take positions from `memory.seen`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from modalities.base import Adapter
from modalities.conformance.subject import Subject, module_subject
from namm import Memory
from namm.errors import AttachError
from namm.policies import Policy


class OwnModels(Adapter):
    """Torch modules with an attribute `memory`."""

    name: ClassVar[str] = "torch modules with an attribute `memory` that is None"

    def takes(self, model: Any) -> bool:
        """See Adapter."""
        own = isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel)
        return own and isinstance(getattr(model, "memory", model), Memory | None)

    @contextmanager
    def attach(self, model: Any, policy: Policy, *, store: str = "packed") -> Iterator[Memory]:
        """Puts a memory where the model looks for one."""
        if model.memory is not None:
            raise AttachError(f"{type(model).__name__} is attached already; leave the first `with attach(...)` block.")
        memory = Memory(policy, store=store)
        model.memory = memory
        try:
            yield memory
        finally:
            model.memory = None

    def subject(self, model: nn.Module, name: str | None = None) -> Subject:
        """Its forward is given tokens, and, where it has a second argument, a mask over all columns so far.

        Raises:
            AttachError: It has no embedding that tells how many tokens there are.
        """
        embedding = next((part for part in model.modules() if isinstance(part, nn.Embedding)), None)
        if embedding is None:
            raise AttachError(
                f"Expected a torch.nn.Embedding in {type(model).__name__}, whose size tells how many tokens there are, "
                "found none; a model of other inputs is examined by an adapter of its own (subject)."
            )
        padded = "mask" in inspect.signature(model.forward).parameters

        def forward(ids: Tensor, mask: Tensor | None) -> Tensor:
            output = model(ids, mask=mask) if padded else model(ids)
            found = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
            if not isinstance(found, Tensor):
                raise AttachError(f"Expected a tensor of outputs, found {type(found).__name__}; return it, or .logits.")
            return found

        return module_subject(
            model, lambda policy: self.attach(model, policy), forward, embedding.num_embeddings, name, padded
        )
