"""Which token of the vocabulary stands at which position, for policies that judge by what a token is.

Ids are told from outside, as attention never shows them, and are kept for every position seen, evicted or not: some
bytes a token, beside the kilobytes of its keys and values.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from namm.errors import AttachError


class TokenRecord:
    """Token ids of a batch of sequences, by absolute position."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.rows: list[Int[Tensor, " tokens"]] = []

    def add(self, ids: Int[Tensor, "batch tokens"], padding: Bool[Tensor, "batch tokens"] | None) -> None:
        """Appends the ids of the tokens of the next call.

        Args:
            ids: Token ids, padding included.
            padding: True for real tokens.
        """
        ids = ids.cpu()
        new = list(ids) if padding is None else [row[real] for row, real in zip(ids, padding.cpu(), strict=True)]
        self.rows = [torch.cat(pair) for pair in zip(self.rows, new, strict=True)] if self.rows else new

    def at(
        self, rows: Int[Tensor, " rows"], positions: Int[Tensor, "rows kv_heads slots"]
    ) -> Int[Tensor, "rows kv_heads slots"]:
        """Ids at some positions of some rows; -1 where the position is negative.

        Raises:
            AttachError: The ids were not told.
        """
        found = torch.full_like(positions, -1)
        for place, row in enumerate(rows.tolist()):
            known = self.rows[row] if row < len(self.rows) else torch.empty(0, dtype=torch.long)
            if int(positions[place].max()) >= known.shape[0]:
                raise AttachError(
                    f"The policy reads token ids; expected those of {int(positions[place].max()) + 1} positions of row "
                    f"{row}, found {known.shape[0]}. attach() tells them where the model is called with input_ids; "
                    "else call memory.tell_tokens(ids) before each call of the model, or give the policy no ids."
                )
            ids = known.to(positions.device)[positions[place].clamp_min(0)]
            found[place] = torch.where(positions[place] >= 0, ids, -1)
        return found

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these rows, in this order."""
        if self.rows:
            self.rows = [self.rows[row] for row in rows.tolist()]
