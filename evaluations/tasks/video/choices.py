"""Questions with options under letters: how they are worded, and which option an answer names.

An answer that names no option, or several, is wrong; nobody guesses for it.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Sequence
from pathlib import Path

from namm.errors import DataError

LETTERS = string.ascii_uppercase
WORDING = "{question}\n{options}\nReply with the letter of the option that is right."
"""This project's own."""
MARKS = ("{question}", "{options}")

_ALONE = re.compile(r"\(?([A-Z])(?:\)|[.:,])?(?=$|\s)")
_SAID = re.compile(
    r"\b(?i:answer|option|choice)(?i: (?:is|would be|option|choice))*[:\s]*\(?([B-Z]|A(?! [a-z]))\b(?!['’])"
)


def worded(question: str, options: Sequence[str], template: str = WORDING) -> str:
    """A question as the model reads it.

    Args:
        question: Without options.
        options: Two to 26, without letters.
        template: With {question} and {options}.
    """
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    # one pass, so that a question with "{options}" in it is left as it is
    return re.sub(r"\{(question|options)\}", lambda mark: question if mark[1] == "question" else listed, template)


def read_template(path: Path | None) -> tuple[str, dict[str, str]]:
    """A wording, and what a row tells of it.

    Raises:
        DataError: The file cannot be read or lacks a mark.
    """
    if path is None:
        return WORDING, {"wording": "this project's", "template": WORDING}
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected a file with the wording of a question at {path}, found: {error}") from None
    missing = [mark for mark in MARKS if mark not in text]
    if missing:
        raise DataError(f"{path}: expected the marks {' and '.join(MARKS)}, found no {missing[0]}; add it")
    return text.rstrip("\n"), {"wording": path.name, "template_sha256": hashlib.sha256(text.encode()).hexdigest()}


def chosen_option(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names; None where it names none or several.

    A letter counts alone at the beginning ("B", "(B)", "B. red", "B) red"), or after "answer", "option" or "choice"; so
    does an option's own words, where they are all that is said. "A" before a word that goes on is an article.
    """
    known = LETTERS[: len(options)]
    said = text.strip().strip("*").strip()
    begins = _ALONE.match(said)
    if begins and (begins.end() == len(said) or not begins[0][-1].isalpha() or _repeats(said, begins, options)):
        return begins[1] if begins[1] in known else None
    named = set(_SAID.findall(said))
    if named:
        letter = named.pop()
        return letter if not named and letter in known else None
    words = [letter for letter, option in zip(known, options, strict=True) if _plain(option) == _plain(said)]
    return words[0] if len(words) == 1 else None


def _repeats(said: str, begins: re.Match[str], options: Sequence[str]) -> bool:
    """Whether a bare letter is followed by just its option's words."""
    place = LETTERS.index(begins[1])
    return place < len(options) and _plain(said[begins.end() :]) == _plain(options[place])


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
