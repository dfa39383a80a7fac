"""The target's own feature statistics, for `namm:target`, and a NAMM's size, for `namm:sequence(keep=0.25)`.

No labels are used. The text is the validation part of Python's library (evaluations/tasks/recall/corpus.py), in the
target's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluations.tasks.recall.corpus import read_documents, split_of_document
from modalities.huggingface.attach import attach
from modalities.language.sizing import threshold_for
from namm import NAMM
from namm.calibration import Calibration
from namm.errors import ConfigError
from namm.features import FeatureStatistics
from namm.policies import Policy
from namm.sizing import Sized, described

ROWS, TOKENS = 8, 1024
"""Stretches of text that are read, and their length, where the model can place so many tokens."""

SIZING_ROWS = 2
"""Of these, stretches that are read to find a size."""


@dataclass
class TargetStatistics:
    """Measured when they are first asked for."""

    tokenizer: PreTrainedTokenizerBase | None
    _found: dict[str, FeatureStatistics] = field(default_factory=dict, repr=False)
    """By NAMM."""
    _sized: dict[tuple[str, str], Sized] = field(default_factory=dict, repr=False)
    """By NAMM and policy."""

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
        if self.tokenizer is None or namm is None:
            raise ConfigError("namm:target reads text to measure the model's statistics: it needs a tokenizer.")
        if namm.sha256() not in self._found:
            calibration = Calibration(namm, interval, model.config.get_text_config().num_hidden_layers)
            with attach(model, calibration):
                for ids in self._rows(_stretch(model, interval)):
                    model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
            self._found[namm.sha256()] = calibration.statistics()
        return self._found[namm.sha256()]

    def described_sizing(self, model: PreTrainedModel, interval: int) -> dict[str, Any]:
        """What sizes are found on, for a row."""
        return {**self.described(model, interval), "rows": SIZING_ROWS, **described()}

    def sized(
        self, model: PreTrainedModel, name: tuple[str, str], make: Callable[[float], Policy], keep: float, interval: int
    ) -> Sized:
        """The threshold under which a policy keeps a part of the same text's tokens; found when it is first asked for.

        Args:
            model: Reads.
            name: Digest of the NAMM, and the policy.
            make: The policy under a threshold.
            keep: Slots held / tokens seen that is wanted.
            interval: Tokens between two updates.

        Raises:
            ConfigError: The model has no tokenizer.
        """
        if name not in self._sized:
            if self.tokenizer is None:
                raise ConfigError(f"{name[1]} reads text to find its size: it needs a tokenizer.")
            tokens = (_stretch(model, interval) - 1) // interval * interval + 1  # an update, then the text ends
            return self.sized_on(model, name, make, keep, self._rows(tokens)[:SIZING_ROWS])
        return self._sized[name]

    def sized_on(
        self,
        model: PreTrainedModel,
        name: tuple[str, str],
        make: Callable[[float], Policy],
        keep: float,
        texts: Sequence[Sequence[int]],
    ) -> Sized:
        """The same on texts that are given, as token ids, the last of each not read."""
        if name not in self._sized:
            self._sized[name] = threshold_for(model, make, texts, keep)
        return self._sized[name]

    def found(self, name: tuple[str, str]) -> dict[str, float]:
        """A size that has been found, for a row."""
        return self._sized[name]._asdict()

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
