"""Attention written out plainly beside a Memory: every token ever seen, the forgotten ones masked.

Slow and as obvious as possible: it shares no code with what it checks beyond asking which tokens are still held.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.memory import Memory
from namm.rules import PLAIN, AttentionRule


class PlainReference:
    """Watches one memory's calls, from a new batch on, until :meth:`close`.

    Attributes:
        worst: Largest difference met, in units of each call's largest value.
        bounded: Whether every layer's reach was bounded, so that nothing need have been evicted.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory, self.worst, self.bounded = memory, 0.0, True
        self._past: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._attend = memory.attend
        memory.attend = self._watched

    def close(self) -> None:
        """Leaves the memory as it was."""
        del self.memory.attend

    def _watched(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Bool[Tensor, "batch tokens"] | None = None,
        scale: float | None = None,
        rule: AttentionRule = PLAIN,
    ) -> Tensor:
        """Feeds the memory up to its next update each time, so that what is held is known, and recomputes it."""
        assert padding is None  # rows then share their updates
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        self.bounded &= rule.local is not None
        interval = self.memory.policy.selection.interval or query.shape[2]
        outputs, wanted, start = [], [], 0
        while start < query.shape[2]:
            held = self._held(layer, query.shape[0])
            begun = self.memory.layers[layer].cache.aligned if layer in self.memory.layers else 0
            stop = min(query.shape[2], start + interval - (begun or 0))
            new = query[:, :, start:stop], key[:, :, start:stop], value[:, :, start:stop]
            outputs.append(self._attend(layer, *new, None, factor, rule))
            rows = range(query.shape[0])
            wanted.append(torch.stack([self._plain(layer, row, new, held[row], factor, rule) for row in rows]))
            start = stop
        out, wanted = torch.cat(outputs, 2), torch.cat(wanted, 2)
        self.worst = max(self.worst, float((out - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6)))
        return out

    def _held(self, layer: int, rows: int) -> list[list[list[int]] | None]:
        """Positions held before a piece, of each row and KV head; None before the first."""
        if layer not in self.memory.layers:
            self._past = {at: past for at, past in self._past.items() if at[0] != layer}
            return [None] * rows
        positions = self.memory.kept_positions(layer)
        return [[head[head >= 0].tolist() for head in row] for row in positions]

    def _plain(
        self,
        layer: int,
        row: int,
        new: tuple[Tensor, Tensor, Tensor],
        held: list[list[int]] | None,
        scale: float,
        rule: AttentionRule,
    ) -> Float[Tensor, "query_heads tokens value_dim"]:
        """Attention of one row's new tokens over everything, in fp64."""
        query, key, value = (tensor[row].double() for tensor in new)
        past = self._past.get((layer, row))
        keys = key if past is None else torch.cat([past[0], key], 1)
        values = value if past is None else torch.cat([past[1], value], 1)
        self._past[layer, row] = (keys, values)
        before, group = keys.shape[1] - key.shape[1], query.shape[0] // keys.shape[0]
        asker = torch.arange(before, keys.shape[1], device=keys.device)[:, None]
        token = torch.arange(keys.shape[1], device=keys.device)
        out = []
        for head in range(query.shape[0]):
            kept = token >= before
            kept[held[head // group] if held is not None else []] = True
            visible = kept & (token <= asker)
            if rule.local is not None:
                width = rule.local.width
                visible &= token // width == asker // width if rule.local.chunked else asker - token < width
            logits = query[head] @ keys[head // group].T * scale
            if rule.softcap is not None:
                logits = rule.softcap * torch.tanh(logits / rule.softcap)
            logits = logits.masked_fill(~visible, float("-inf"))
            if rule.sinks is not None:
                sink = rule.sinks[head].to(logits).expand(logits.shape[0], 1)
                logits = torch.cat([logits, sink], 1)
            out.append(logits.softmax(1)[:, : keys.shape[1]] @ values[head // group])
        return torch.stack(out)
