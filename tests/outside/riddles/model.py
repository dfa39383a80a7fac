"""A transformer of one layer without any training: it looks up what a key was told to stand for."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot, scaled_dot_product_attention

from namm import Memory

KEYS = 32
VALUES = 8
ASK = KEYS * VALUES
"""First of the tokens that ask; they offer nothing themselves."""
SHARPNESS = 60.0
"""Of the attention: the wanted key outweighs any number of others."""


class LookupMachine(nn.Module):
    """Token `key * VALUES + value` tells that a key stands for a value, token `ASK + key` asks for it."""

    def __init__(self) -> None:
        super().__init__()
        told, asked = torch.arange(ASK), torch.arange(KEYS)
        wanted = one_hot(torch.cat([told // VALUES, asked]), KEYS)
        offered = one_hot(told // VALUES, KEYS + VALUES) + one_hot(KEYS + told % VALUES, KEYS + VALUES)
        codes = torch.cat([wanted, torch.cat([offered, torch.zeros(KEYS, KEYS + VALUES)])], dim=1)
        self.embedding = nn.Embedding.from_pretrained(codes.float())
        self.memory: Memory | None = None

    def forward(
        self,
        ids: Int[Tensor, "batch tokens"],
        mask: Int[Tensor, "batch columns"] | None = None,
    ) -> Float[Tensor, "batch tokens values"]:
        """How likely each value is, seen from every token.

        Args:
            ids: Tokens; with a memory those that are new.
            mask: 1 for real tokens, over all columns so far.
        """
        columns = ids.shape[1]
        if self.memory is not None:
            padding = None if mask is None else mask[:, -columns:].bool()
            return self.memory.attend(0, *self._heads(ids), padding=padding)[:, 0]
        seen = torch.ones(columns, columns, dtype=torch.bool).tril()[None]
        if mask is not None:
            seen = seen & mask[:, None, :].bool() | torch.eye(columns, dtype=torch.bool)
        return scaled_dot_product_attention(*self._heads(ids), attn_mask=seen[:, None])[:, 0]

    def _heads(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of one head."""
        codes = self.embedding(ids)[:, None]
        return SHARPNESS * codes[..., :KEYS], codes[..., KEYS : 2 * KEYS], codes[..., 2 * KEYS :]
