"""What was asked so far: one line a batch, written as it ends, so that a killed cell goes on where it was.

`answers/KEY.jsonl` lies beside the rows and belongs to the row of that key; it stays when the row is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from evaluations.rows.lines import AppendedLines
from modalities.language.reading import Costs


class Journal:
    """The batches of one cell.

    Attributes:
        trials: Every question that was asked.
        costs: Of every batch.
        trace: One question in full, if any batch had one.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Reads what is there.

        Args:
            folder: Of the experiment.
            key: Of the cell.
        """
        self._lines = AppendedLines(folder / "answers" / f"{key}.jsonl")
        self.trials: list[dict[str, Any]] = []
        self.costs: list[Costs] = []
        self.trace: dict[str, Any] | None = None
        self._held: list[np.ndarray] = []
        self._words: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._seconds: dict[str, float] = {}
        self._read()

    @property
    def asked(self) -> frozenset[str]:
        """Ids of what was asked."""
        return frozenset(trial["id"] for trial in self.trials)

    @property
    def head_slots(self) -> Float[np.ndarray, "layers kv_heads"]:
        """Mean over the questions."""
        return np.sum(self._held, axis=0) / len(self.trials)

    @property
    def vision_seconds(self) -> float:
        """What encoding the clips took, each once."""
        return sum(self._seconds.values())

    @property
    def words(self) -> dict[str, tuple[float, int]]:
        """By label, the mean share that was kept of frames which it fits best, and how many these are."""
        return {word: (total / count, int(count)) for word, (total, count) in sorted(self._words.items())}

    def add(
        self,
        trials: Sequence[Mapping[str, Any]],
        costs: Costs,
        held: Float[np.ndarray, "layers kv_heads"],
        words: Mapping[str, tuple[float, int]],
        seconds: Mapping[str, float],
        trace: Mapping[str, Any] | None,
    ) -> None:
        """Keeps a batch, synced to the disk before this returns.

        Args:
            trials: What was asked, graded.
            costs: What it took.
            held: Slots of each layer and head when the questions came, summed over them.
            words: By label, the sum of shares kept, and how many frames.
            seconds: By video, what encoding it took.
            trace: One question in full.
        """
        batch = {
            "trials": list(trials), "costs": asdict(costs), "held": held.tolist(), "words": dict(words),
            "seconds": dict(seconds), "trace": trace,
        }  # fmt: skip
        self._take(self._lines.append(batch))

    def _read(self) -> None:
        """What does not fit is left out: its questions are asked again."""
        for batch in self._lines.read():
            try:
                self._take(batch)
            except (ValueError, KeyError, TypeError):
                continue

    def _take(self, batch: Mapping[str, Any]) -> None:
        trials, trace, costs = list(batch["trials"]), batch["trace"], Costs(**batch["costs"])
        held, seconds = np.array(batch["held"], dtype=float), dict(batch["seconds"])
        words = [(word, float(total), float(count)) for word, (total, count) in batch["words"].items()]
        # nothing of a batch is taken before all of it could be read
        self.trials += trials
        self.costs.append(costs)
        self._held.append(held)
        for word, total, count in words:
            self._words[word][0] += total
            self._words[word][1] += count
        self._seconds |= seconds
        self.trace = self.trace or trace
