"""What every section of the report is given, and the few pieces of HTML that all of them use.

A `Section` is a function from the whole `Report` to HTML, a `TargetPart` one from a report and one of its targets; an
empty string leaves it out. Each kind of experiment lists the ones it shows, in order, in its own `page.py`. Text that
comes from rows or options is escaped where it enters the page; pictures are inline SVG in the page's own ink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evaluations.analysis.estimates import Estimate
from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.report import figures
from evaluations.rows.results import Row


@dataclass(frozen=True)
class Animation:
    """A GIF of one trial, with what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Page:
    """What goes into a report besides the rows."""

    title: str
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    animations: Mapping[str, Animation] = field(default_factory=dict)
    """By target."""
    unfinished: int = 0
    """Cells that have no row yet."""
    reading: Sequence[str] = ()
    """How to read the tables, as HTML."""


@dataclass(frozen=True)
class Report:
    """Everything a section may show: all rows, what was given beside them, and one summary a target."""

    rows: Sequence[Row]
    page: Page
    targets: Sequence[TargetSummary]


Section = Callable[[Report], str]
TargetPart = Callable[[Report, TargetSummary], str]


def picture(drawing: Figure, salt: str, caption: str = "") -> str:
    """A figure with its caption.

    Args:
        drawing: Drawn with the style of evaluations/report/figures.py.
        salt: Any text that no other picture of the page has.
        caption: HTML.
    """
    said = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{figures.svg(drawing, identifier(salt))}{said}</figure>"


def table(heads: Iterable[str], lines: Iterable[str], caption: str = "", tall: bool = False) -> str:
    """A table that scrolls sideways where the page is too narrow.

    Args:
        heads: Whole `<th>` elements.
        lines: Whole `<tr>` elements.
        caption: Plain text.
        tall: Scroll downwards too, instead of growing.
    """
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f"<div class='scroll{' tall' if tall else ''}'><table>{told}<thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def head(title: str, help_: str = "") -> str:
    """The head of a column; `help_` appears under the pointer."""
    return (
        f"<th title='{escape(help_)}'>{escape(typeset(title))}</th>" if help_ else f"<th>{escape(typeset(title))}</th>"
    )


def interval(estimate: Estimate, digits: int = 1) -> str:
    """Value and interval as HTML."""
    return small(estimate.text(digits))


def small(text: str) -> str:
    """Escaped text of a cell, its interval in small print."""
    return typeset(text).replace("[", "<small>[").replace("]", "]</small>")


def listed(said: Iterable[tuple[str, str]]) -> str:
    """Sentences of a (kind, plain text) list; kind is "note" or "warning"."""
    items = "".join(f"<li class='{kind}'>{escape(text)}</li>" for kind, text in said)
    return f"<ul class='notes'>{items}</ul>" if items else ""


def row_class(policy: PolicySummary | None) -> str:
    """The class attribute of a policy's table row."""
    if policy is None or not (policy.is_namm or policy.is_reference):
        return ""
    return " class='namm'" if policy.is_namm else " class='reference'"


def typeset(text: str) -> str:
    """Real minus and times signs."""
    return text.replace(" - ", " − ").replace("-", "−").replace(" x100", " ×100")


def identifier(text: str) -> str:
    """Letters and digits of a text, for ids and anchors."""
    return "".join(letter for letter in text if letter.isalnum())
