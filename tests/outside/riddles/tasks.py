"""Tasks from outside: one that is drawn, a benchmark, a control target; entry points of the group `namm.tasks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from evaluations.tasks.control.shipped_target import SHIPPED_FOLDER, Shipped
from evaluations.tasks.recall.corpus import RecallVocabulary
from evaluations.tasks.recall.filler import Filler
from evaluations.tasks.recall.tasks import Evidence, TextTask, statements
from evaluations.tasks.text.base import Benchmark, TextItem

SHORT_MAZE = Shipped(
    name="short-maze",
    folder=str(SHIPPED_FOLDER / "tmaze"),  # a package would bring its own
    episodes=4,
    quick_episodes=1,
    env_kwargs={"corridor_steps": 60},
)
PROVERBS = {"A rolling stone gathers no": "moss", "Still waters run": "deep", "Many hands make light": "work"}


class Lookup(TextTask):
    """Twelve keys with a value each, of which three are asked."""

    name = "lookup"

    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        keys, values = (rng.choice(kind, 12, replace=False) for kind in (vocabulary.keys, vocabulary.values))
        return statements(list(np.stack([keys, values], axis=1)), list(keys[:3, None]), list(values[:3, None]))


class Proverbs(Benchmark):
    """The last word of a proverb that is told among others."""

    name: ClassVar[str] = "proverbs"
    tasks: ClassVar[tuple[str, ...]] = ("last-word",)

    def items(self, task: str, tokenizer: Any, limit: int | None = None, seed: int = 0) -> Sequence[TextItem]:
        told = " ".join(f"{begun} {last}." for begun, last in PROVERBS.items())
        asked = list(PROVERBS.items())[:limit]
        return [
            TextItem(begun, f"{told * 8} {begun}", (f" {last}",), max_new_tokens=4, context_end=len(told) * 8)
            for begun, last in asked
        ]

    def score(self, task: str, item: TextItem, prediction: str) -> float:
        return float(prediction.strip().startswith(item.answers[0].strip()))

    def protocol(self, task: str) -> Mapping[str, Any]:
        told = {"benchmark": self.name, "task": task, "metric": "first word", "generated": False, "truncation": "none"}
        return {**told, "stop": [], "chat_template": False, "versions": {}, "sha256": {}}
