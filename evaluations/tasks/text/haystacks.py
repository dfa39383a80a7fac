"""Text to hide needles in: a folder of texts, or the documentation that comes with Python.

Both are cut into sentences, with white space made even. The documentation is real English that lies on any machine; it
differs between versions of Python, so rows carry the checksum of what was used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from evaluations.tasks.recall.corpus import read_documents
from evaluations.tasks.text.package_texts import package_documents
from evaluations.tasks.text.records import read_json
from namm.errors import DataError

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(\[])")
SHORTEST, LONGEST = 20, 400
"""Characters of a sentence; what lies outside is a heading, a table or a listing."""


@dataclass(frozen=True)
class Haystack:
    """Sentences, in their order."""

    name: str
    sentences: tuple[str, ...]
    sha256: str

    def take(self, count: int, start: int = 0) -> list[str]:
        """So many sentences from a place on, from the beginning again at the end."""
        return [self.sentences[(start + place) % len(self.sentences)] for place in range(count)]


def open_haystack(folder: str | Path | None, texts: str = "python") -> Haystack:
    """The sentences of a folder's texts (*.txt, *.md, and .json with a `text`), or of what lies on the machine.

    Args:
        folder: With texts in it or in its subfolders; None: what `texts` says.
        texts: "python", Python's documentation; "packages", documentation and books that packages carry.

    Raises:
        DataError: There is no such folder, or no text in it.
    """
    if folder is None:
        return _package_texts() if texts == "packages" else _python_documentation()
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DataError(f"expected a folder of texts at {path}, found none")
    files = sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".md", ".json") and file.is_file())
    sentences = sentences_of([text for file in files if (text := _text_of(file))])
    if not sentences:
        raise DataError(
            f"expected texts (*.txt, *.md, or .json with a 'text') with sentences of {SHORTEST} to {LONGEST} "
            f"characters in {path}, found {len(files)} such files without any"
        )
    return _haystack(str(path), sentences)


def has_texts(folder: Path) -> bool:
    """Whether a folder has texts to make a haystack of."""
    return folder.is_dir() and any(file.suffix in (".txt", ".md") for file in folder.rglob("*"))


def sentences_of(texts: Sequence[str]) -> list[str]:
    """The sentences of texts, with white space made even."""
    parts = (part.strip() for text in texts for part in SENTENCE_END.split(" ".join(text.split())))
    return [part for part in parts if SHORTEST <= len(part) <= LONGEST]


def insert_at(sentences: Sequence[str], needles: Sequence[str], depths: Sequence[float]) -> list[str]:
    """Sentences with needles put in, each at its depth.

    Args:
        sentences: The haystack.
        needles: In the order of their depths.
        depths: Ascending, 0 to 100, in percent of the sentences.
    """
    places = [round(len(sentences) * depth / 100) for depth in depths]
    parts: list[str] = []
    for begin, end, needle in zip([0, *places], places, needles, strict=False):
        parts += [*sentences[begin:end], needle]
    return parts + list(sentences[places[-1] if places else 0 :])


def draw_depths(rng: np.random.Generator, count: int) -> list[float]:
    """So many different depths of the forty that RULER uses, ascending."""
    grid = np.round(np.linspace(0, 100, num=40))
    return sorted(float(depth) for depth in rng.choice(grid, size=count, replace=False))


@cache
def _python_documentation() -> Haystack:
    texts = [text for name, text in read_documents() if name.startswith("topic:")]
    return _haystack("Python documentation", sentences_of(texts or [text for _, text in read_documents()]))


@cache
def _package_texts() -> Haystack:
    return _haystack("documentation and books of packages", sentences_of([text for _, text in package_documents()]))


def _haystack(name: str, sentences: Sequence[str]) -> Haystack:
    return Haystack(name, tuple(sentences), hashlib.sha256("\n".join(sentences).encode()).hexdigest())


def _text_of(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == ".json":
        found = read_json(content, file)
        text = found.get("text", "") if isinstance(found, dict) else ""
        return text if isinstance(text, str) else ""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file}:{line}: expected UTF-8, found the byte 0x{content[error.start]:02x}") from None
