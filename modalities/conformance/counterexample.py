"""The smallest prompts on which a clause fails: rows and tokens are taken away for as long as it still fails."""

from __future__ import annotations

import time
from collections.abc import Iterator

from modalities.conformance.case import Case, Check, Clause, Counterexample

SECONDS = 20.0
"""How long is looked for smaller prompts."""
RAISED = "raised"
Size = tuple[tuple[int, int], ...]
"""Rows of the whole case, with the tokens that are left of each."""


def tried(clause: Clause, case: Case) -> Check:
    """A clause's check; what a model raises under a memory is a failure of the clause."""
    try:
        return clause.check(case)
    except Exception as error:
        return Check(clause.name, "fails", f"{RAISED} {type(error).__name__}: {' '.join(str(error).split())}")


def with_counterexample(clause: Clause, case: Case, found: Check, seconds: float = SECONDS) -> Check:
    """A failed check with the smallest prompts on which it fails likewise.

    Args:
        clause: That fails.
        case: The whole prompts.
        found: How it fails on these.
        seconds: How long is looked for smaller ones.
    """
    ends = time.monotonic() + seconds
    size: Size = tuple(enumerate(case.lengths))
    worst = found
    while clause.shrinks:
        for smaller in _smaller(size):
            if time.monotonic() > ends:
                return _told(found, case.cut(size), worst)
            check = _retried(clause, case.cut(smaller))
            if check is not None and check.outcome == "fails" and _way(check) == _way(found):
                size, worst = smaller, check
                break
        else:
            break
    return _told(found, case.cut(size), worst)


def _retried(clause: Clause, case: Case) -> Check | None:
    """The same on a smaller case; None where the stock model does not take it, as where a picture is cut."""
    try:
        _ = case.stock
    except Exception:
        return None
    return tried(clause, case)


def _smaller(size: Size) -> Iterator[Size]:
    """Smaller cases, the boldest first."""
    if len(size) > 1:
        yield from (size[:at] + size[at + 1 :] for at in range(len(size)))
    for part in (2, 4, 8):
        cut = tuple((row, tokens - tokens // part) for row, tokens in size)
        if cut != size:
            yield cut
    for step in (4, 1):
        for at, (row, tokens) in enumerate(size):
            if tokens > step:
                yield (*size[:at], (row, tokens - step), *size[at + 1 :])


def _way(check: Check) -> str:
    """In which way a clause fails: what was raised, or by its outputs."""
    return check.detail.partition(":")[0] if check.detail.startswith(RAISED) else ""


def _told(found: Check, case: Case, worst: Check) -> Check:
    prompts = tuple(tuple(case.row(row)[0].tolist()) for row in range(len(case.lengths)))
    example = Counterexample(prompts, worst.detail)
    return Check(found.name, found.outcome, found.detail, found.note, example)
