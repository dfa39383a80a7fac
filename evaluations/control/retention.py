"""Watches a memory while episodes run: how many slots and bytes, which kinds of token, of what age, in which layer.

A `BatchObserver` is called once an environment step by the rollout. Slots and bytes are read at every step; which
tokens are held is read every `STRIDE` steps, a number without a common divisor with usual intervals, so that samples
fall on all phases between two updates. Cues, where an environment shows some, are followed to the step
(evaluations/control/cues.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from evaluations.control.cues import CueWatch, cues_of
from evaluations.control.holdings import Holdings, WindowHoldings
from evaluations.control.sizes import TOKENS_PER_STEP

STRIDE = 5
AGE_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Ages in environment steps; a bin holds its lower edge, not its upper one."""
TRACE_TIMES, TRACE_SAMPLES, TRACE_BINS = 200, 60, 200
TIME_BINS = 32
"""Most points in time that kinds and ages are told for; an episode of more samples is averaged in equal pieces."""
KINDS = "Rsa"
"""Kind of the token at position p of a Decision Transformer: KINDS[p % 3]."""


class BatchObserver:
    """Watches a batch that holds several seeds' episodes one after the other, and keeps a book for each seed.

    Args:
        holdings: What is watched.
        sizes: Episodes of each seed.
        traced: Index of the seed whose first episode is recorded in detail; None for no seed.
    """

    def __init__(self, holdings: Holdings, sizes: Sequence[int], traced: int | None) -> None:
        self.holdings = holdings
        self.books = [RetentionBook(size, trace=index == traced) for index, size in enumerate(sizes)]
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self.first = np.cumsum([0, *sizes[:-1]])
        self.cues = CueWatch([()] * sum(sizes))

    def start(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Called before the first step with what the resets told, one entry an episode."""
        self.cues = CueWatch([cues_of(info) for info in infos])

    def __call__(self, step: int, live: list[int]) -> None:
        """Called after the actions of a step; `live` names the episodes of the batch rows."""
        if isinstance(self.holdings, WindowHoldings):
            self.holdings.advance(step, live)
        slots, held = self.holdings.slots(), self.holdings.bytes()
        look = self.cues.must_look(live, TOKENS_PER_STEP * step + 2 - slots)
        positions = self.holdings.positions() if look or step % STRIDE == 0 else None
        if positions is not None and look:
            self.cues.look(step, live, positions)
        if step % STRIDE:
            positions = None
        alive = np.array(live)
        for index, book in enumerate(self.books):
            rows = np.flatnonzero(self.owner[alive] == index)
            if len(rows):
                book.note(
                    step,
                    (alive[rows] - self.first[index]).tolist(),
                    slots[rows],
                    None if held is None else np.array(held) / len(live),
                    None if positions is None else [layer[rows] for layer in positions],
                )

    def cue(self, index: int, lengths: Sequence[int]) -> dict[str, Any] | None:
        """What the row of one seed says about cues; None where its episodes showed none.

        Args:
            index: Which seed.
            lengths: Steps of its episodes.
        """
        first = self.first[index]
        episodes = [self.cues.episode(first + number, length) for number, length in enumerate(lengths)]
        if not any(episodes):
            return None
        layers, heads = self.cues.heads
        return {"layers": layers, "heads": heads, "episodes": episodes}


@dataclass(frozen=True)
class Moment:
    """What one sample counted, over the live episodes of a seed."""

    step: int
    kinds_held: Float[np.ndarray, " 3"]
    kinds_seen: Float[np.ndarray, " 3"]
    ages_held: Float[np.ndarray, " ages"]
    """Mean over layers and heads."""
    ages_seen: Float[np.ndarray, " ages"]


class RetentionBook:
    """What the row of one seed says about memory.

    Args:
        episodes: Number of its episodes.
        trace: Record how the memory of its first episode develops.
    """

    def __init__(self, episodes: int, trace: bool) -> None:
        self.slots_sum, self.slots_peak, self.seen_sum = np.zeros(episodes), np.zeros(episodes), np.zeros(episodes)
        self.slots_last = np.zeros(episodes)
        self.steps = np.zeros(episodes, dtype=int)
        self.byte_sums, self.byte_peaks, self.byte_steps = np.zeros(2), np.zeros(2), 0
        self.kinds_held, self.kinds_seen = np.zeros(3), np.zeros(3)
        self.ages_held: Float[np.ndarray, "layers heads ages"] | None = None
        self.ages_seen = np.zeros(len(AGE_EDGES) - 1)
        """For one layer and head."""
        self.moments: list[Moment] = []
        self.trace = trace
        self.trace_slots: list[tuple[int, float]] = []
        self.trace_held: list[tuple[int, np.ndarray]] = []

    def note(
        self,
        step: int,
        live: list[int],
        slots: Float[np.ndarray, " live"],
        bytes_per_episode: Float[np.ndarray, " 2"] | None,
        positions: list[Int[np.ndarray, "live kv_heads slots"]] | None,
    ) -> None:
        """Adds one step of the live episodes.

        Args:
            step: Environment step, from 0.
            live: Which of the seed's episodes are running.
            slots: Slots each of them holds, mean over layers and KV heads.
            bytes_per_episode: Bytes of keys and values, and of the policy's state; None where nothing is cached.
            positions: Positions held, one array a layer, -1 where there is none; None where this step is not sampled.
        """
        seen = TOKENS_PER_STEP * step + 2
        self.slots_sum[live] += slots
        self.slots_peak[live] = np.maximum(self.slots_peak[live], slots)
        self.slots_last[live] = slots
        self.seen_sum[live] += seen
        self.steps[live] += 1
        if bytes_per_episode is not None:
            self.byte_sums += bytes_per_episode * len(live)
            self.byte_peaks = np.maximum(self.byte_peaks, bytes_per_episode)
            self.byte_steps += len(live)
        traced = self.trace and live[0] == 0
        if traced:
            self.trace_slots.append((step, float(slots[0])))
        if positions is not None:
            self._sample(positions, seen, len(live), step if traced else None)

    def _sample(
        self, layers: list[Int[np.ndarray, "episodes kv_heads slots"]], seen: int, live: int, trace_step: int | None
    ) -> None:
        heads = layers[0].shape[1]
        if self.ages_held is None:
            self.ages_held = np.zeros((len(layers), heads, len(AGE_EDGES) - 1))
        # by how many tokens old a token is
        age_bin = np.digitize(np.arange(seen) // TOKENS_PER_STEP, AGE_EDGES[1:-1])
        ages_seen = np.bincount(age_bin, minlength=len(self.ages_seen)) * live
        kinds_held, ages_held = np.zeros(3), np.zeros_like(self.ages_held)
        survivors = np.zeros(seen)
        for layer, positions in enumerate(layers):
            for head in range(heads):
                held = positions[:, head][positions[:, head] >= 0]
                kinds_held += np.bincount(held % TOKENS_PER_STEP, minlength=3)
                ages_held[layer, head] = np.bincount(age_bin[seen - 1 - held], minlength=len(self.ages_seen))
            if trace_step is not None:
                first = positions[0][positions[0] >= 0]
                survivors += np.bincount(first, minlength=seen) / (heads * len(layers))
        # per layer and head, so that held / seen is a mean over layers, heads and episodes
        kinds_seen = np.bincount(np.arange(seen) % TOKENS_PER_STEP, minlength=3) * live * heads * len(layers)
        self.kinds_held += kinds_held
        self.kinds_seen += kinds_seen
        self.ages_held += ages_held
        self.ages_seen += ages_seen
        step = (seen - 2) // TOKENS_PER_STEP
        share = ages_held.sum(axis=(0, 1)) / (heads * len(layers))
        self.moments.append(Moment(step, kinds_held, kinds_seen, share, ages_seen))
        if trace_step is not None:
            self.trace_held.append((trace_step, survivors))

    def metrics(self) -> dict[str, float | None]:
        """Means over episodes of what was held; see evaluations/control/cells.py for the keys."""
        kinds = self.kinds_held / self.kinds_seen
        seen = TOKENS_PER_STEP * (self.steps - 1) + 2
        found: dict[str, float | None] = {
            "slots_mean": float((self.slots_sum / self.steps).mean()),
            "slots_peak": float(self.slots_peak.max()),
            "tokens_seen": float(seen.mean()),
            "evicted": float((seen - self.slots_last).mean()),
            "kept_fraction": float(self.slots_sum.sum() / self.seen_sum.sum()),
        }
        found |= {f"kept_fraction_{kind}": float(value) for kind, value in zip(KINDS, kinds, strict=True)}
        if self.byte_steps:
            means, peaks = self.byte_sums / self.byte_steps, self.byte_peaks
            found |= {"bytes_mean": float(means[0]), "bytes_peak": float(peaks[0])}
            found |= {"state_bytes_mean": float(means[1]), "state_bytes_peak": float(peaks[1])}
        return found

    def episode(self, index: int) -> dict[str, float]:
        """Mean and peak slots of one episode."""
        return {
            "slots_mean": float(self.slots_sum[index] / self.steps[index]),
            "slots_peak": float(self.slots_peak[index]),
        }

    def retention(self) -> dict[str, Any] | None:
        """What was kept by layer, head and age, and by kind and age over time; see evaluations/control/cells.py."""
        if self.ages_held is None:
            return None
        by_head = _share(self.ages_held, self.ages_seen)
        several = -(-len(self.moments) // TIME_BINS)
        pieces = [self.moments[start : start + several] for start in range(0, len(self.moments), several)]
        kinds = np.stack([_share(_sum(m.kinds_held for m in p), _sum(m.kinds_seen for m in p)) for p in pieces])
        ages = np.stack([_share(_sum(m.ages_held for m in p), _sum(m.ages_seen for m in p)) for p in pieces])
        return {
            "age_edges": list(AGE_EDGES),
            "layers": by_head.mean(axis=1).round(4).tolist(),
            "heads": by_head.round(4).tolist(),
            "steps": [round(sum(moment.step for moment in piece) / len(piece), 1) for piece in pieces],
            "kinds": {kind: kinds[:, place].round(3).tolist() for place, kind in enumerate(KINDS)},
            "ages": ages.round(3).tolist(),
        }

    def traced(self) -> dict[str, Any] | None:
        """How the memory of episode 0 developed: slots over time, and which tokens were still held (percent)."""
        if not self.trace_slots or not self.trace_held:
            return None
        times = self.trace_slots[:: max(1, -(-len(self.trace_slots) // TRACE_TIMES))]
        samples = self.trace_held[:: max(1, -(-len(self.trace_held) // TRACE_SAMPLES))]
        tokens = TOKENS_PER_STEP * (self.trace_slots[-1][0] + 1)
        width = TOKENS_PER_STEP * max(1, -(-tokens // (TRACE_BINS * TOKENS_PER_STEP)))
        bins = -(-tokens // width)
        survival = []
        for _, held in samples:
            padded = np.zeros(bins * width)
            padded[: len(held)] = held
            known = np.clip(len(held) - width * np.arange(bins), 1, width)
            survival.append(np.rint(100 * padded.reshape(bins, width).sum(1) / known).astype(int).tolist())
        return {
            "steps": [step for step, _ in times],
            "slots": [round(slots, 2) for _, slots in times],
            "survival_steps": [step for step, _ in samples],
            "survival": survival,
            "tokens_per_bin": width,
        }


def _sum(counts: Iterable[np.ndarray]) -> np.ndarray:
    """Over moments, which share their shape."""
    return np.sum(list(counts), axis=0)


def _share(held: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """held / seen, not a number where nothing was seen (null in a row)."""
    return np.divide(held, seen, out=np.full(np.broadcast_shapes(held.shape, seen.shape), np.nan), where=seen > 0)
