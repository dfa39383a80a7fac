"""An exam: one task made ready for one model, as prompts out of token ids, and grades out of answers.

A task that is drawn here (recall, needles, real text) depends on a seed; one that is read from a benchmark's files does
not. Where the prompts come from is the business of the subclasses; who reads them under which memory is not an exam's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modalities.language.prompts import Prompt
from modalities.language.reading import Answer

Grade = dict[str, Any]
"""One scored thing: `id`, `score` (0 to 100, or a log-likelihood), and whatever else is told of it."""


@dataclass(frozen=True)
class ExamPrompts:
    """The prompts of one seed."""

    prompts: tuple[Prompt, ...]
    ids: tuple[str, ...]
    """Of the graded items; `members` names the prompts of each."""
    members: tuple[tuple[int, ...], ...]
    expected: tuple[str, ...] = ()
    """The answer that each item asks for, for people to read."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was done to make them, such as how many were cut."""
    documents: tuple[str | None, ...] = ()
    """Which document each of the graded items is about, the same in every run; None where each has its own."""
    sources: tuple[Any, ...] = ()
    """What each of the graded items was made of, where grading needs it: other seeds have others of the same name."""


class Exam(ABC):
    """One task, ready for one model."""

    name: str
    """As it was asked for: pairs, needles/multikey, longbench/qasper."""

    @property
    def length(self) -> int:
        """The length in tokens that was asked for; 0 where it has its own."""
        return getattr(self, "context_tokens", 0)

    score_name = "score"
    """What the score is; evaluations/language/trials.py describes those that are no percentages."""

    drawn = True
    """Whether a seed changes the prompts."""

    @abstractmethod
    def prompts(self, seed: int) -> ExamPrompts:
        """The prompts of a seed, always the same ones.

        Raises:
            NammError: Its data is missing or damaged, or nothing can be asked.
        """

    @abstractmethod
    def grade(self, asked: ExamPrompts, place: int, answers: Sequence[Answer]) -> Grade:
        """The grade of one item, given the answers to its prompts."""

    def finished(self, tokens: list[int]) -> bool:
        """Whether generated tokens are a whole answer."""
        return False

    def answer_text(self, answers: Sequence[Answer]) -> str:
        """What was answered, for people to read."""
        return ""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything about the exam that decides a score, as JSON values for the key of a row."""

    def protocol(self) -> dict[str, Any]:
        """What else a reader of a row must know; decides nothing."""
        return {}
