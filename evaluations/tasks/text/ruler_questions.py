"""The questions of RULER's qa_1 and qa_2, from the files of SQuAD 2.0 and HotpotQA as their makers publish them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evaluations.tasks.text.records import Record, read_json
from namm.errors import DataError

QUESTION_FILES = {
    "qa_1": ("squad.json", "dev-v2.0.json"),
    "qa_2": ("hotpotqa.json", "hotpot_dev_distractor_v1.json"),
}
"""Names that the file of a task goes by: RULER's, then its maker's."""

WHERE = {
    "qa_1": "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
    "qa_2": "hotpot_dev_distractor_v1.json of https://hotpotqa.github.io",
}


@dataclass(frozen=True)
class Question:
    """A question, its answers, and the documents that matter to it."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[int, ...]
    """Places of the documents that it is answered from."""

    near: tuple[int, ...] = ()
    """Places of documents on the same subject, which stand beside these first."""


@dataclass(frozen=True)
class QuestionSet:
    """Questions in the order of their file, and all documents of it."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]


def question_file(task: str, folder: Path | None) -> Path:
    """The file of a question task.

    Raises:
        DataError: No folder is given, or it has no such file.
    """
    if folder is None:
        raise DataError(
            f"expected a folder with {QUESTION_FILES[task][0]} for {task}, found no data; get it from {WHERE[task]}"
        )
    for name in QUESTION_FILES[task]:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"expected {' or '.join(QUESTION_FILES[task])} in {folder} for {task}, found neither; get it from {WHERE[task]}"
    )


@cache
def read_questions(task: str, path: Path) -> QuestionSet:
    """The questions of a task that have an answer.

    Raises:
        DataError: The file is not of the set's form; the message says where.
    """
    content = read_json(path.read_bytes(), path)
    found = _squad(content, path) if task == "qa_1" else _hotpotqa(content, path)
    if not found.questions:
        raise DataError(f"{path}: expected questions with answers, found none")
    return found


def _squad(content: Any, path: Path) -> QuestionSet:
    articles = _parts(Record(content if isinstance(content, dict) else {}, str(path)), "data")
    paragraphs = [(article.where, p) for article in articles for p in _parts(article, "paragraphs")]
    documents = tuple(sorted({p.text("context") for _, p in paragraphs}))
    places = {document: place for place, document in enumerate(documents)}
    of_article: dict[str, list[int]] = {}
    for article, p in paragraphs:
        of_article.setdefault(article, []).append(places[p.text("context")])
    questions = []
    for article, p in paragraphs:
        own = places[p.text("context")]
        for question in _parts(p, "qas"):
            if question.fields.get("is_impossible"):
                continue
            answers = tuple(answer.text("text") for answer in _parts(question, "answers"))
            if not answers:
                raise question.fault("answers", "an empty list")
            near = tuple(place for place in of_article[article] if place != own)
            questions.append(Question(question.text("question"), answers, (own,), near))
    return QuestionSet(tuple(questions), documents)


def _hotpotqa(content: Any, path: Path) -> QuestionSet:
    rows = _parts(Record({"rows": content}, str(path)), "rows")
    shown = [[_hotpotqa_document(row, part) for part in row.fields.get("context") or []] for row in rows]
    documents = tuple(sorted({document for some in shown for document in some}))
    places = {document: place for place, document in enumerate(documents)}
    questions = tuple(
        Question(row.text("question"), (row.text("answer"),), tuple(places[document] for document in some))
        for row, some in zip(rows, shown, strict=True)
    )
    return QuestionSet(questions, documents)


def _hotpotqa_document(row: Record, part: Any) -> str:
    if not (isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], list)):
        raise row.fault("[title, [sentences]] in 'context'", repr(part)[:80])
    return f"{part[0]}\n{''.join(Record({'context': part[1]}, row.where).texts('context'))}"


def _parts(record: Record, name: str) -> Sequence[Record]:
    value = record.fields.get(name)
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise record.fault(f"a list of objects in {name!r}", type(value).__name__)
    return [Record(part, f"{record.where}:{name}[{place}]") for place, part in enumerate(value)]
