"""What a text benchmark is: prompts out of data, and a score out of an answer.

A benchmark reads its data (a folder or the Hub), fills its prompt templates (others' text, read at run time) and scores
answers. Which model reads the prompts, under which memory, how they are cut to a context window and how many share a
cache is the business of `evaluations/text.py`: it is the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextItem:
    """One prompt, before it is tokenised."""

    id: str
    """Its name within the task; rows hold one score an id."""

    prompt: str
    """What the model reads, whole."""

    answers: tuple[str, ...]
    """Reference answers; the score is the best over them, unless the metric says otherwise."""

    max_new_tokens: int
    """Longest answer, in tokens."""

    context_end: int | None = None
    """Characters of the prompt that belong to the context: what follows asks about it. None where it is not known."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """What scoring and grouping need besides: classes, language, length, depth of the needle, ..."""


class Benchmark(ABC):
    """A family of tasks with one source, one form of data and one protocol. Subclasses are final, one file each."""

    name: ClassVar[str]
    """Registry name; `NAME/TASK` names one of its tasks on the command line."""

    tasks: ClassVar[tuple[str, ...]]
    """Its tasks, in the order of their source."""

    @abstractmethod
    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """The prompts of a task, in the order of its data.

        Args:
            task: One of ``tasks``.
            tokenizer: For benchmarks that make contexts of a length in tokens.
            limit: The first so many only.
            seed: Of what is generated here; data that is read does not depend on it.

        Raises:
            DataError: A file is missing, damaged, or not of the benchmark's form; the message names it.
        """

    @abstractmethod
    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """The score of one answer, from 0 to 1, as the benchmark's source computes it."""

    @abstractmethod
    def protocol(self, task: str) -> Mapping[str, Any]:
        """What decides a score besides model and memory, as JSON-able facts for a row.

        Metric, truncation, what ends an answer (``stop``: strings that cut it), chat template or not, versions of
        metric libraries, checksums of data and templates.
        """
