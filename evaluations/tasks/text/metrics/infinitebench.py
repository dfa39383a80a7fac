"""How InfiniteBench reads an answer: the first number, the last word, a letter, a name.

The rules are those of its script, in their order, because an answer that says several things is judged by the first
rule that applies. Where the script would stop with an error, the answer is wrong here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

DIGITS = re.compile(r"[0-9]+")
DECIMAL = re.compile(r"\d+\.\d+|\d+")
LAST_LETTER = {last: re.compile(rf"\b[A-{last}]\b(?!.*\b[A-{last}]\b)") for last in "DJ"}
SPACES = re.compile(" {2,}")

CHOICE_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
DEBUG_PREFIXES = ("answer is:", "is:", "answer:", "correct option is:")


def first_integer(prediction: str, label: str) -> float:
    """1 if the first run of digits is the label (passkey, number_string)."""
    found = DIGITS.search(prediction)
    return float(found is not None and found.group() == label)


def first_number(prediction: str, label: str) -> float:
    """1 if the first number, whole or decimal, equals the label (math_find)."""
    found = DECIMAL.search(prediction)
    if found is None or ("." not in label and "." in found.group()):
        return 0.0
    return float(float(found.group()) == float(label))


def last_integer(prediction: str, label: str) -> float:
    """1 if the last word is the label, a whole number (code_run)."""
    words = _without(prediction.strip(), "\n.`'\":").split()
    try:
        return float(bool(words) and int(words[-1]) == int(label))
    except ValueError:
        return 0.0


def word_among(prediction: str, label: str) -> float:
    """1 if the label is one of the words (kv_retrieval)."""
    return float(label in _without(prediction, "\n:\"'.,?!{}").split())


def name_in(prediction: str, names: Sequence[str]) -> float:
    """1 if any of the names appears, without case (longdialogue_qa_eng)."""
    answer = prediction.strip().upper()
    return float(any(name.upper() in answer for name in names))


def same_beginning(prediction: str, values: Sequence[str]) -> float:
    """The part of the values that the answer's numbers give in their order, up to the first fault (math_calc)."""
    numbers = (int(number) for number in DIGITS.findall(prediction))
    return sum(1 for _ in takewhile(bool, (n == int(v) for n, v in zip(numbers, values, strict=False)))) / len(values)


def choice(prediction: str, text: str, letter: str) -> float:
    """1 if the answer chooses the letter, or the text of the option (longbook_choice_eng)."""
    answer, right = prediction.strip(), (text, letter)
    last = LAST_LETTER["D"].search(answer)
    if last is not None and last.group() in right:
        return 1.0
    if not answer:
        return 0.0
    if answer[0] in "ABCD":
        return float(answer[0] in right)
    if answer in right:
        return 1.0
    answer = SPACES.sub(" ", _without(answer, "\n\"'.,?!{}"))
    after = _after_prefix(answer, CHOICE_PREFIXES)
    if after is not None:
        return float(after.startswith(right))
    word = next((word for word in answer.split() if word in "ABCD"), "")
    return float(word in right)


def faulty_function(prediction: str, name: str, letter: str) -> float:
    """1 if the answer names the option with the faulty function, by letter or by name (code_debug)."""
    answer, right = prediction.strip(), (letter, name)
    last = LAST_LETTER["J"].search(answer)
    if last is not None and last.group() == letter:
        return 1.0
    answer = _without(answer, "\n`'\"-*").replace("Option", " ").replace("option", " ")
    answer = SPACES.sub(" ", answer)
    if answer.startswith(right):
        return 1.0
    after = _after_prefix(answer, DEBUG_PREFIXES)
    return float(after is not None and after.startswith(right))


def _without(text: str, characters: str) -> str:
    return text.translate(dict.fromkeys(map(ord, characters), " "))


def _after_prefix(answer: str, prefixes: Sequence[str]) -> str | None:
    for prefix in prefixes:
        place = answer.find(prefix)
        if place >= 0:
            return answer[place + len(prefix) + 1 :]
    return None
