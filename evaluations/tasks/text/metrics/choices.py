"""Answers that are right or wrong: a class, a number, a letter, a string that must appear."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBERS = re.compile(r"\d+")
UNPRINTABLE = re.compile(r"[\x00-\x1f]")


def classification_score(prediction: str, reference: str, classes: Sequence[str]) -> float:
    """1 over the number of classes that the answer names, if the right one is among them (LongBench: trec, lsht).

    A class whose name is part of the right one's does not count; the list is shortened while it is walked, as LongBench
    does, so that of two such neighbours the second stays.
    """
    named = [name for name in classes if name in prediction]
    place = 0
    while place < len(named):
        if named[place] in reference and named[place] != reference:
            named.remove(named[place])
        place += 1
    return 1.0 / len(named) if reference in named else 0.0


def count_score(prediction: str, reference: str) -> float:
    """The part of the numbers in the answer that equal the right one (LongBench: passage_count)."""
    numbers = NUMBERS.findall(prediction)
    return numbers.count(reference) / len(numbers) if numbers else 0.0


def retrieval_score(prediction: str, reference: str, label: str) -> float:
    """`count_score` against the number that follows `label` in the reference (LongBench: "Paragraph 3", "段落3").

    Raises:
        ValueError: No number follows the label; readers of data refuse such references.
    """
    found = re.search(re.escape(label) + r"(\d+)", reference)
    if found is None:
        raise ValueError(f"expected {label!r} and a number in the reference, found {reference!r}")
    return count_score(prediction, found.group(1))


def string_match_all(prediction: str, references: Sequence[str]) -> float:
    """The part of the references that appear in the answer, without case (RULER)."""
    answer = _printable(prediction).lower()
    return sum(reference.lower() in answer for reference in references) / len(references)


def string_match_any(prediction: str, references: Sequence[str]) -> float:
    """1 if any of the references appears in the answer, without case (RULER's questions: `string_match_part`)."""
    answer = _printable(prediction).lower()
    return float(any(reference.lower() in answer for reference in references))


def chosen_letter(prediction: str) -> str | None:
    """The letter A to D that follows "The correct answer is", with or without parenthesis (LongBench v2); else None.

    A parenthesis anywhere is preferred to a bare letter, as in LongBench v2's script, and asterisks are ignored.
    """
    plain = prediction.replace("*", "")
    found = re.search(r"The correct answer is \(([A-D])\)", plain) or re.search(r"The correct answer is ([A-D])", plain)
    return found.group(1) if found else None


def only_label(prediction: str, target: str, question: str, labels: Sequence[str]) -> float:
    """1 if the target is the only label in the answer's first sentence that the question does not name (BABILong).

    Without case; an answer also ends where it goes on with another context or example.
    """
    answer = prediction.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    named = {label for label in map(str.lower, labels) if label in answer and label not in question.lower()}
    return float(named == {target.lower()})


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("\n", text.strip()).strip()
