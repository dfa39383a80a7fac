"""What a memory held: slots and bytes, now and at the peak, and what it evicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from namm.layer import LayerMemory


Bytes = tuple[int, int]
"""Of keys and values, and of the policy's state."""


@dataclass
class Peaks:
    """Largest totals met so far; each layer reports after its call what it held at most during it.

    Parts of a split memory have one each and may be called at the same time. What they held together is told as if they
    had taken turns, so that it does not depend on the clock.
    """

    most: Bytes = (0, 0)
    slots: dict[int, int] = field(default_factory=dict)
    now: dict[int, Bytes] = field(default_factory=dict)
    turns: list[tuple[Bytes, Bytes]] | None = None
    """Of a part: the most during each round of its layers, and what was held after it."""
    latest: int = 0

    def note(self, index: int, layer: LayerMemory) -> None:
        """Compares the call's peak, beside what the other layers hold, with the peak so far."""
        self.now[index] = layer.call_peak
        during = _sum(self.now.values())
        self.most = _larger(self.most, during)
        self.slots[index] = max(self.slots.get(index, 0), layer.most_slots)
        self.now[index] = (layer.cache.cache_bytes(), layer.state_bytes())
        if self.turns is not None:
            if self.turns and index > self.latest:
                during = _larger(self.turns.pop()[0], during)
            self.turns.append((during, _sum(self.now.values())))
            self.latest = index

    @classmethod
    def together(cls, parts: Sequence[Peaks]) -> Peaks:
        """What the parts of a memory held, had they taken turns."""
        whole = cls()
        turns = [part.turns or [((0, 0), (0, 0))] for part in parts]
        for turn in range(max(map(len, turns))):
            for part, own in enumerate(turns):
                if turn < len(own):
                    others = [
                        other[min(turn - (index > part), len(other) - 1)][1] if turn or index < part else (0, 0)
                        for index, other in enumerate(turns)
                        if index != part
                    ]
                    whole.most = _larger(whole.most, _sum([own[turn][0], *others]))
        for part in parts:
            for index, slots in part.slots.items():
                whole.slots[index] = max(whole.slots.get(index, 0), slots)
        return whole


def _sum(held: Iterable[Bytes]) -> Bytes:
    cache_bytes, state_bytes = zip(*held, strict=True)
    return sum(cache_bytes), sum(state_bytes)


def _larger(one: Bytes, other: Bytes) -> Bytes:
    return max(one[0], other[0]), max(one[1], other[1])


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
    """Bytes of per-token policy state, positions and buffered queries now."""

    peak_state_bytes: int
    """The most of these."""

    updates: int
    """Updates of the layer that had most."""

    evicted: int
    """Tokens evicted, counted per layer, head and sequence."""

    @classmethod
    def of(cls, policy: str, parts: Sequence[Mapping[int, LayerMemory]], peaks: Peaks) -> MemoryReport:
        """The report of the layers of a memory, or of each part of one."""
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
            peak_cache_bytes=peaks.most[0],
            state_bytes=sum(layer.state_bytes() for layer in every),
            peak_state_bytes=peaks.most[1],
            updates=max((layer.updates for layer in every), default=0),
            evicted=sum(layer.evicted for layer in every),
        )

    def __str__(self) -> str:
        lines = [
            f"policy {self.policy}: kept {100 * self.kept_fraction:.1f}% of {sum(self.tokens_seen)} tokens, "
            f"{self.updates} updates",
            f"keys and values {_mib(self.cache_bytes)} now, {_mib(self.peak_cache_bytes)} at the peak; "
            f"policy state {_mib(self.state_bytes)} now, {_mib(self.peak_state_bytes)} at the peak",
        ]
        for index, (heads, peak) in enumerate(zip(self.slots, self.peak_slots, strict=True)):
            now = " ".join(f"{slots:.0f}" for slots in heads)
            lines.append(f"layer {index}: slots per KV head {now} (peak {peak})")
        return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
