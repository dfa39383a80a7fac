"""What a memory held: slots and bytes, now and at the peak, and what it evicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from namm.layer import LayerMemory


BESIDE_LAYERS = -1
"""Stands for a layer's index where something belongs to none."""


@dataclass
class Peaks:
    """Largest totals met so far; each layer reports after its call what it held at most during it.

    A memory that is split shares one of these with its parts, which it knows apart by their first sequence.
    """

    cache_bytes: int = 0
    state_bytes: int = 0
    slots: dict[int, int] = field(default_factory=dict)
    now: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def note(self, part: int, index: int, layer: LayerMemory) -> None:
        """Compares the call's peak, beside what the other layers hold, with the peak so far."""
        self.now[part, index] = layer.call_peak
        self.cache_bytes = max(self.cache_bytes, sum(cache for cache, _ in self.now.values()))
        self.state_bytes = max(self.state_bytes, sum(state for _, state in self.now.values()))
        self.now[part, index] = (layer.cache.cache_bytes(), layer.contents.state_bytes())
        self.slots[index] = max(self.slots.get(index, 0), layer.most_slots)

    def note_beside(self, part: int, state: int) -> None:
        """Bytes of policy state that belong to no layer."""
        self.now[part, BESIDE_LAYERS] = (0, state)

    def fork(self, part: int) -> Peaks:
        """The peaks of a memory that goes its own way; of a batch that is split, those of one part."""
        return replace(
            self, slots=dict(self.slots), now={key: held for key, held in self.now.items() if key[0] == part}
        )

    def leave(self, part: int) -> None:
        """A part has forgotten everything."""
        self.now = {key: held for key, held in self.now.items() if key[0] != part}


@dataclass(frozen=True)
class MemoryReport:
    """Facts about one memory; prints as a short table."""

    policy: str
    """Name of the policy."""

    tokens_seen: list[int]
    """Tokens of each sequence."""

    slots: list[list[float]]
    """Mean slots held now, per layer and KV head."""

    kept_fraction: float
    """Slots held now / tokens seen, over all layers, heads and sequences."""

    peak_slots: list[int]
    """Most slots that any head of each layer ever held."""

    cache_bytes: int
    """Bytes of keys and values allocated now."""

    peak_cache_bytes: int
    """The most that was allocated, just before an update frees its share."""

    state_bytes: int
    """Bytes of per-token policy state, positions, buffered queries and token ids now. Where uneven heads lie is worked
    out for attention at every update (:class:`namm.ragged.Layout`) and not counted."""

    peak_state_bytes: int
    """The most of these."""

    updates: int
    """Updates of the layer that had most."""

    evicted: int
    """Tokens evicted, counted per layer, head and sequence."""

    layers: list[int] = field(default_factory=list)
    """Index in the model of each layer of the lists above; layers without attention are missing."""

    reach: list[str | None] = field(default_factory=list)
    """How far back each layer looks; None for all that is kept. What is out of reach is freed whatever the policy."""

    beside_bytes: int = 0
    """Bytes of recurrent layers' states: of fixed size, and no policy's business."""

    @classmethod
    def of(
        cls,
        policy: str,
        parts: Sequence[Mapping[int, LayerMemory]],
        peaks: Peaks,
        beside_bytes: int = 0,
        told_bytes: int = 0,
    ) -> MemoryReport:
        """The report of the layers of a memory, or of each part of one, and of what belongs to no layer."""
        every = [layer for layers in parts for layer in layers.values()]
        held = sum(int(layer.cache.slots().sum()) for layer in every)
        seen = sum(int(layer.cache.seen.sum()) * layer.cache.kv_heads for layer in every)
        indices = sorted(parts[0]) if parts else []
        return cls(
            policy=policy,
            tokens_seen=[tokens for layers in parts for tokens in layers[min(layers)].cache.seen.tolist()],
            slots=[
                torch.cat([layers[index].cache.slots() for layers in parts]).float().mean(0).tolist()
                for index in indices
            ],
            kept_fraction=held / seen if seen else 1.0,
            peak_slots=[peaks.slots[index] for index in sorted(peaks.slots)],
            cache_bytes=sum(layer.cache.cache_bytes() for layer in every),
            peak_cache_bytes=peaks.cache_bytes,
            state_bytes=sum(layer.contents.state_bytes() for layer in every) + told_bytes,
            peak_state_bytes=peaks.state_bytes,
            updates=max((layer.updates for layer in every), default=0),
            evicted=sum(layer.evicted for layer in every),
            layers=indices,
            reach=[None if parts[0][i].rule.local is None else str(parts[0][i].rule.local) for i in indices],
            beside_bytes=beside_bytes,
        )

    def __str__(self) -> str:
        lines = [
            f"policy {self.policy}: kept {100 * self.kept_fraction:.1f}% of {sum(self.tokens_seen)} tokens, "
            f"{self.updates} updates",
            f"keys and values {_mib(self.cache_bytes)} now, {_mib(self.peak_cache_bytes)} at the peak; "
            f"policy state {_mib(self.state_bytes)} now, {_mib(self.peak_state_bytes)} at the peak",
        ]
        if self.beside_bytes:
            lines.append(f"recurrent states {_mib(self.beside_bytes)}, of fixed size, which no policy governs")
        for index, heads, peak, reach in zip(self.layers, self.slots, self.peak_slots, self.reach, strict=True):
            now = " ".join(f"{slots:.0f}" for slots in heads)
            limit = f", {reach}" if reach else ""
            lines.append(f"layer {index}: slots per KV head {now} (peak {peak}{limit})")
        return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
