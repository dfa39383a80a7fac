"""What was really kept while lm_eval ran: a policy that evicts nothing looks like full attention."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from namm import Memory


@dataclass
class Kept:
    """What was held when the prompts of a task had been read, log-likelihood requests with what is scored."""

    requests: int = 0
    fraction: float = 0.0
    slots: float = 0.0
    tokens: int = 0

    def add(self, slots: float, tokens: int) -> None:
        """One request.

        Args:
            slots: Held, mean over layers and KV heads.
            tokens: Seen.
        """
        self.requests += 1
        self.fraction += slots / tokens
        self.slots += slots
        self.tokens += tokens

    def facts(self) -> dict[str, float]:
        """Means over requests."""
        means = {"kept_fraction": self.fraction, "slots": self.slots, "tokens_seen": float(self.tokens)}
        return {"requests": self.requests, **{name: total / self.requests for name, total in means.items()}}


class WhenRead(LogitsProcessor):
    """Changes nothing; notes what the memory holds when generation begins."""

    def __init__(self, memory: Memory, kept: Kept) -> None:
        self.memory, self.kept, self.is_read = memory, kept, False

    def __call__(
        self, input_ids: Int[Tensor, "rows columns"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """The scores as they are."""
        if not self.is_read:
            self.is_read = True
            held = self.memory.slots().float().mean(dim=(1, 2))
            for slots, tokens in zip(held.tolist(), self.memory.seen.tolist(), strict=True):
                self.kept.add(slots, tokens)
        return scores
