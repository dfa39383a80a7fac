"""What a text benchmark is: prompts out of data, and a score out of an answer.

A benchmark reads its data (a folder or the Hub), fills its prompt templates (others' text, read at run time) and scores
answers. Which model reads the prompts, under which memory, how they are cut to a context window and how many share a
cache is the business of `evaluations/text.py`: it is the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from namm.errors import ConfigError

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
    """What scoring needs besides: classes, options, language, ..."""

    groups: Mapping[str, str | int] = field(default_factory=dict)
    """What means are also taken by, such as {"length": "0-4k"} or {"tokens": 4096, "depth": 50}."""

    document: str | None = None
    """The text that is asked about, as the data has it: questions about equal ones are not independent. None where
    every prompt has a text of its own."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """What benchmarks are made with; each takes what concerns it."""

    data: str | Path | None = None
    """Folder with the data, or OWNER/NAME on the Hub; None: its home on the Hub, or what is generated."""

    templates: str | Path | None = None
    """Folder or file with the benchmark's own prompt templates, or "lm_eval" for those that come with
    lm-evaluation-harness; None: beside the data, and this project's wording where contexts are generated."""

    lengths: tuple[int, ...] = (4096,)
    """Context lengths in tokens, where contexts are generated (ruler, niah) or come in lengths (babilong)."""

    samples: int | None = None
    """Prompts a task and length, where contexts are generated; None: as many as the source has."""

    prompt_set: str = "yarn_mistral"
    """Which of the prompts, where the source has several sets (infinitebench: yarn_mistral, gpt4, claude2)."""

    depths: tuple[int, ...] = (0, 25, 50, 75, 100)
    """Where the needle lies (niah), in percent of the context."""

    texts: Literal["python", "packages"] = "python"
    """What needles are hidden in where no folder is given: Python's documentation, or what packages carry."""


class Benchmark(ABC):
    """A family of tasks with one source, one form of data and one protocol. Subclasses are final, one file each."""

    name: ClassVar[str]
    """Registry name; `NAME/TASK` names one of its tasks on the command line."""

    tasks: ClassVar[tuple[str, ...]]
    """Its tasks, in the order of their source."""

    in_harness: ClassVar[bool] = False
    """Whether lm-evaluation-harness has its prompts in a form that can be read."""

    def __init__(self, options: BenchmarkOptions) -> None:
        """Args:
        options: What it is made with. Nothing is read yet, so that a missing file is told by the task that needs it.

        Raises:
            ConfigError: An option does not suit it.
        """
        if options.templates == "lm_eval" and not self.in_harness:
            raise ConfigError(
                f"expected the folder of {self.name}'s own prompt templates, found templates=lm_eval; "
                "docs/benchmarks.md says where they are found"
            )
        self.options = options

    @abstractmethod
    def items(
        self, task: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, seed: int = 0
    ) -> Sequence[TextItem]:
        """The prompts of a task, in the order of its data.

        Args:
            task: One of ``tasks``.
            tokenizer: For benchmarks that make contexts of a length in tokens.
            limit: The first so many only; of each length, where a task has several.
            seed: Of what is generated here; data that is read does not depend on it.

        Raises:
            DataError: A file is missing, damaged, or not of the benchmark's form; the message names it.
        """

    @abstractmethod
    def score(self, task: str, item: TextItem, prediction: str) -> float:
        """The score of one answer, from 0 to 1, as the benchmark's source computes it."""

    def answer(self, task: str, item: TextItem) -> str:
        """A right answer as it would be written after the prompt, for its likelihood."""
        return item.answers[0]

    @abstractmethod
    def protocol(self, task: str) -> Mapping[str, Any]:
        """What decides a score besides model and memory, as JSON-able facts for a row.

        Always there: ``benchmark``, ``task``, ``metric``, ``generated`` (whether the seed decides the prompts),
        ``truncation`` (``"middle"`` or ``"none"``), ``stop`` (strings that cut an answer), ``chat_template`` (whether
        the source wraps this task's prompts in a chat model's template), ``versions`` of the packages that score, and
        ``sha256`` of what was read, by what it is.
        """
