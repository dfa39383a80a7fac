"""What was asked of a cell is kept batch by batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluations.vision.journal import Journal
from modalities.language.reading import Costs

COSTS = Costs(1, 0.5, 0.25, None, 3, 100, 120, 10, 12, 7)


def test_a_batch_that_cannot_be_read_is_left_out_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "key")
    for name in ("a", "b"):
        held = np.ones((2, 1))
        journal.add([{"id": name, "score": 1.0}], COSTS, held, {"red": (0.5, 2)}, {name: 1.0}, None)
    path = tmp_path / "answers" / "key.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text("\n".join([first, second.replace('"held"', '"hold"')]) + "\n")
    again = Journal(tmp_path, "key")
    assert again.asked == {"a"}
    assert again.words == {"red": (0.25, 2)}
    assert (again.vision_seconds, len(again.costs), again.head_slots.tolist()) == (1.0, 1, [[1.0], [1.0]])
