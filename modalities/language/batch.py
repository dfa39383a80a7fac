"""Rows of an attached model that are fed side by side, wherever each begins and ends (left padding)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.huggingface.attach import cache_argument, cache_of
from modalities.language.prompts import IGNORED, Prompt
from namm.errors import ConfigError
from namm.memory import Memory


class Batch:
    """Rows of one attached model: feeds them further tokens, copies and drops them."""

    def __init__(self, model: PreTrainedModel, memory: Memory, chunk: int | None) -> None:
        """No rows yet.

        Args:
            model: Attached.
            memory: What it is attached with.
            chunk: Most columns a forward call; None reads a part in one.
        """
        self.model, self.memory, self.chunk = model, memory, memory.policy.eager_chunk or chunk
        known = inspect.signature(model.forward).parameters
        self.takes_positions, self.keeps_logits = "position_ids" in known, "logits_to_keep" in known
        self.name = cache_argument(model)
        self.cache: Any = None
        self.mask: Int[Tensor, "rows columns"] = torch.zeros(0, 0, dtype=torch.long)

    def feed(self, parts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab"]:
        """Logits of the last column; parts are padded on the left."""
        return self.ask(parts, [()] * len(parts))[0]

    def ask(
        self, parts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> tuple[Float[Tensor, "rows vocab"], list[tuple[tuple[int, ...], tuple[bool, ...], tuple[float, ...]]]]:
        """Logits of the last column, and each row's choices, hits and log-likelihoods of the tokens that it asks for.

        Args:
            parts: Further tokens of each row.
            targets: The token to predict after each, IGNORED where nothing is asked; empty where nothing at all is.
        """
        rows, columns = len(parts), max(map(len, parts))
        ids, new = torch.zeros(rows, columns, dtype=torch.long), torch.zeros(rows, columns, dtype=torch.long)
        wanted = torch.full((rows, columns), IGNORED)
        for row, (part, asked) in enumerate(zip(parts, targets, strict=True)):
            if part:
                ids[row, columns - len(part) :] = torch.tensor(part)
                new[row, columns - len(part) :] = 1
            if asked:
                wanted[row, columns - len(asked) :] = torch.tensor(asked)
        before = self.mask.sum(1, keepdim=True) if self.mask.shape[1] else torch.zeros(rows, 1, dtype=torch.long)
        positions = self.positions((before + new.cumsum(1) - 1).clamp_min(0))
        self.mask = torch.cat([self.mask, new], dim=1) if self.mask.shape[1] else new
        done = self.mask.shape[1] - columns
        padded = not bool(self.mask.all())  # without padding a model needs no mask, and saves making one
        step = columns if self.chunk is None else self.chunk
        device = self.model.device
        choices, likelihoods = torch.zeros_like(wanted), torch.zeros(rows, columns)
        last: Float[Tensor, "rows vocab"] | None = None
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            named: dict[str, Any] = {self.name: self.cache, "use_cache": True}
            if self.takes_positions:
                named["position_ids"] = positions[..., start:stop].to(device)
            named |= self.beside(ids[:, start:stop], new[:, start:stop].bool())
            place = wanted[:, start:stop] != IGNORED
            if self.keeps_logits:
                named["logits_to_keep"] = stop - start if bool(place.any()) else 1
            if padded:
                named["attention_mask"] = self.mask[:, : done + stop].to(device)
            out = self.model(input_ids=ids[:, start:stop].to(device), **named)
            self.cache, last = cache_of(out), out.logits[:, -1]
            if bool(place.any()):
                choice, likelihood = _scores(out.logits[place.to(device)], wanted[:, start:stop][place].to(device))
                choices[:, start:stop][place], likelihoods[:, start:stop][place] = choice.cpu(), likelihood.cpu()
        if last is None:
            raise ConfigError(f"expected tokens to feed to {rows} rows, found none; give a prompt one token or more")
        asks = wanted != IGNORED
        hits = choices == wanted
        scores = [
            (
                tuple(choices[row, place].tolist()),
                tuple(hits[row, place].tolist()),
                tuple(likelihoods[row, place].tolist()),
            )
            for row, place in enumerate(asks)
        ]
        return last, scores

    def positions(self, counted: Int[Tensor, "rows columns"]) -> Int[Tensor, "*dimensions rows columns"]:
        """What the model is told of where new tokens stand; here just how many came before in their rows."""
        return counted

    def beside(self, ids: Int[Tensor, "rows columns"], real: Bool[Tensor, "rows columns"]) -> dict[str, Any]:
        """What the model is given beside the ids of a call; here nothing.

        Args:
            ids: Padding included.
            real: False for padding.
        """
        return {}

    def select(self, rows: Sequence[int], identities: Int[Tensor, " rows"] | None = None) -> None:
        """Keeps these rows, in this order; one may appear more than once.

        Args:
            rows: Places of today.
            identities: What they are called from now on; as they were where None.
        """
        if identities is None and list(rows) == list(range(self.mask.shape[0])):
            return
        index = torch.tensor(rows)
        self.memory.select_sequences(index, identities=identities)
        self.mask = self.mask[index]


def _scores(
    logits: Float[Tensor, "tokens vocab"], wanted: Int[Tensor, " tokens"]
) -> tuple[Int[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """The first choices, and the log-likelihood of what was wanted."""
    logits = logits.float()
    return logits.argmax(-1), logits.log_softmax(-1).gather(1, wanted[:, None]).squeeze(1)


BatchMaker = Callable[[PreTrainedModel, Memory, int | None, Sequence[Prompt]], Batch]
"""Makes what feeds rows, from an attached model, its memory, the most columns a call, and the prompts that the rows
begin with."""


def plain_batch(model: PreTrainedModel, memory: Memory, chunk: int | None, prompts: Sequence[Prompt]) -> Batch:
    """What feeds rows of tokens and nothing else.

    Args:
        model: Attached.
        memory: What it is attached with.
        chunk: Most columns a forward call.
        prompts: What the rows begin with; tokens need nothing of them.
    """
    return Batch(model, memory, chunk)
