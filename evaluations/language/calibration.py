"""The target's own feature statistics, for `namm:target`: from a full-cache pass over text that nobody is asked about.

No labels are used. The text is the validation part of Python's library (evaluations/tasks/recall/corpus.py), in the
target's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluations.tasks.recall.corpus import read_documents, split_of_document
from modalities.huggingface.attach import attach
from namm import NAMM
from namm.calibration import Calibration
from namm.errors import ConfigError
from namm.features import FeatureStatistics

ROWS, TOKENS = 8, 1024
"""Stretches of text that are read, and their length, where the model can place so many tokens."""


@dataclass
class TargetStatistics:
    """Measured when they are first asked for."""

    tokenizer: PreTrainedTokenizerBase | None
    _found: FeatureStatistics | None = field(default=None, repr=False)

    def described(self, model: PreTrainedModel, interval: int) -> dict[str, Any]:
        """What they are measured on, for a row."""
        tokens = _stretch(model, interval)
        return {"text": "Python's standard library, validation documents", "rows": ROWS, "tokens": tokens}

    @torch.inference_mode()
    def of(self, model: PreTrainedModel, namm: NAMM | None, interval: int) -> FeatureStatistics:
        """The statistics of a model.

        Raises:
            ConfigError: The model has no tokenizer.
        """
        if self._found is None:
            if self.tokenizer is None or namm is None:
                raise ConfigError("namm:target reads text to measure the model's statistics: it needs a tokenizer.")
            calibration = Calibration(namm, interval, model.config.get_text_config().num_hidden_layers)
            with attach(model, calibration):
                for ids in self._rows(_stretch(model, interval)):
                    model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
            self._found = calibration.statistics()
        return self._found

    def _rows(self, tokens: int) -> list[list[int]]:
        """Beginnings of documents, joined where one is too short."""
        assert self.tokenizer is not None
        rows: list[list[int]] = [[]]
        for name, text in read_documents():
            if split_of_document(name) != "validation":
                continue
            ids = self.tokenizer(text[: 8 * tokens], add_special_tokens=False)["input_ids"]
            rows[-1] += ids[: tokens - len(rows[-1])]
            if len(rows[-1]) == tokens:
                if len(rows) == ROWS:
                    break
                rows.append([])
        return [row for row in rows if len(row) == tokens]


def _stretch(model: PreTrainedModel, interval: int) -> int:
    """Tokens of a stretch: as many as the model places, and at least one update's."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or TOKENS
    return max(interval, min(TOKENS, most))
