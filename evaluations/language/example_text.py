"""One prompt of a row as the dashboard shows it: its text with what was kept, coloured, without scripts."""

from __future__ import annotations

from html import escape
from itertools import groupby

import numpy as np

from evaluations.language.trace import kept_of
from evaluations.rows.file import Row

LEVELS = 4
"""Shades of what is held."""


def example(row: Row) -> str:
    """The context of a traced prompt: what no head held any more faded, the rest the darker the more heads hold it."""
    trace = row["trace"]
    kept = kept_of(row)
    share = kept.mean(axis=(0, 1)) if kept.size else np.zeros(len(trace["pieces"]))
    levels = np.ceil(share * LEVELS).astype(int).tolist()
    spans = []
    for level, several in groupby(zip(levels, trace["pieces"], strict=True), key=lambda pair: pair[0]):
        spans.append(f"<span class='k{level}'>{escape(''.join(piece for _, piece in several))}</span>")
    told = [("asked", trace["question"]), ("answered", trace["answer"]), ("expected", trace["expected"])]
    facts = "".join(f"<dt>{name}</dt><dd>{escape(str(text))}</dd>" for name, text in told if text)
    return f"<dl>{facts}</dl><div class='kept' tabindex='0'>{''.join(spans)}</div>"
