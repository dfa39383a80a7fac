"""What was answered so far: one line a prompt, written as its batch ends, so that a killed task goes on where it was.

`answers/KEY.jsonl` lies beside the rows and belongs to the row of that key. It stays when the row is written: the
answers are in it, word for word, in the order in which they were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaluations.rows.lines import AppendedLines
from modalities.language.reading import Answer, Costs


class Journal:
    """The answers of one cell.

    Args:
        folder: Of the experiment.
        key: Of the cell.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._lines = AppendedLines(folder / "answers" / f"{key}.jsonl")
        self.answers: dict[int, Answer] = {}
        self.costs: list[Costs] = []
        self._read()

    def add(self, answers: Mapping[int, Answer], costs: Costs, texts: Mapping[int, str]) -> None:
        """Keeps the answers of a batch, synced to the disk before this returns.

        Args:
            answers: By place.
            costs: Of the batch.
            texts: What was answered, for people to read.
        """
        self._lines.append({"costs": vars(costs), "answers": [_told(p, a, texts) for p, a in answers.items()]})
        self.answers |= answers
        self.costs.append(costs)

    def _read(self) -> None:
        """What does not fit is left out: its prompts are read again."""
        for batch in self._lines.read():
            try:
                answers = {entry["place"]: _answer(entry) for entry in batch["answers"]}
                costs = Costs(**batch["costs"])
            except (ValueError, KeyError, TypeError):
                continue
            self.answers |= answers
            self.costs.append(costs)


def _told(place: int, answer: Answer, texts: Mapping[int, str]) -> dict[str, Any]:
    return {
        "place": place,
        "text": texts.get(place, ""),
        "tokens": answer.tokens,
        "choices": answer.choices,
        "hits": [int(hit) for hit in answer.hits],
        "log_likelihoods": [round(value, 5) for value in answer.log_likelihoods],
        "context_tokens": answer.context_tokens,
        "held": answer.held.tolist(),
        "held_after": answer.held_after.tolist(),
        "kept": answer.kept,
    }


def _answer(entry: Mapping[str, Any]) -> Answer:
    kept = entry["kept"]
    return Answer(
        tuple(entry["tokens"]),
        tuple(entry["choices"]),
        tuple(map(bool, entry["hits"])),
        tuple(entry["log_likelihoods"]),
        entry["context_tokens"],
        torch.tensor(entry["held"]),
        torch.tensor(entry["held_after"]),
        None if kept is None else tuple(tuple(tuple(head) for head in layer) for layer in kept),
    )
