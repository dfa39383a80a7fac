"""KVzip: what the model looks at when it repeats its context (arXiv 2505.23416).

When the context has been read, the model is asked to repeat it, and is given the repetition, part by part. A token's
score is the largest attention that any of its queries gives it, over the heads of the group too: what is needed to tell
the context again is needed for any question about it. That costs a second reading under a full cache, which whoever
reads the prompts does (``modalities.foresight``) and tells the memory; the policy looks it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Policy, Selection, TokenView

CHUNK = 2048
"""Tokens of the context that are repeated at once, by default."""

RESUMED = 8
"""Last tokens of the part before, which say where the next one begins."""


class KVzip(Policy):
    """Attention of the repetition; heads of a layer compete for its slots, as in the paper."""

    name = "kvzip"
    foresees = "repetition"
    reads_tokens = True
    defaults: ClassVar = {"protected_first": 4, "head_allocation": "adaptive", "safeguard": 0.0}

    def __init__(
        self,
        selection: Selection,
        request: Sequence[int] = (),
        resume: Sequence[int] = (),
        answer: Sequence[int] = (),
        chunk: int = CHUNK,
    ) -> None:
        """How the context is repeated.

        Args:
            selection: The shared selection rule.
            request: Token ids that ask for a repetition (``modalities.foresight.requests`` makes them).
            resume: The same for a later part; the last tokens of the part before follow.
            answer: Token ids between the request and the repetition, such as a chat template's turn.
            chunk: Tokens of the context that are repeated at once.

        Raises:
            ConfigError: A chunk of nothing.
        """
        super().__init__(selection)
        if chunk < 1:
            raise ConfigError(f"The context is repeated in parts of 1 token or more, found chunk={chunk}.")
        self.request, self.resume, self.answer = tuple(request), tuple(resume), tuple(answer)
        self.chunk = chunk

    def repetitions(self, context: Sequence[int]) -> list[tuple[int, int, tuple[int, ...]]]:
        """What is read behind the context, a part at a time, each as if the others had not been.

        Args:
            context: Token ids.

        Returns:
            For each part: where it begins in the context, where it ends, and the tokens to read.
        """
        found = []
        for start in range(0, len(context), self.chunk):
            stop = min(start + self.chunk, len(context))
            asking = self.request if start == 0 else (*self.resume, *context[max(0, start - RESUMED) : start])
            found.append((start, stop, (*asking, *self.answer, *context[start:stop])))
        return found

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Largest attention from 0 to 1; infinite for what came after the context."""
        return view.foreseen()

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        asked = {"request": list(self.request), "resume": list(self.resume), "answer": list(self.answer)}
        return {**super().describe(), "chunk": self.chunk, **asked}
