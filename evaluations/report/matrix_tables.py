"""The transfer matrix as a table, for a page, a terminal, and Markdown: relative score and kept part in each cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluations.analysis.matrix import Line, Matrix, MatrixCell
from evaluations.analysis.matrix_verdicts import sentence, size_of
from evaluations.report.sections.base import head, small, table

MARKS = {"ahead": "▲", "behind": "▼", "level": "="}
"""A NAMM against the best rival of its size: clearly ahead, clearly behind, not told apart."""
HELP = (
    "score as a percentage of the full cache's, mean over targets, 95% interval over trials (and over runs where a "
    "recipe has several); then slots held / tokens seen"
)
COLDEST, WARMEST = 20, 75
"""Percent of colour in a cell at scores of 0 and of 100."""


def blocks(matrix: Matrix) -> list[tuple[str, list[Line]]]:
    """Lines under what they have in common: references, then each size with its NAMMs and rivals, best first."""
    shares = sorted({line.share for line in matrix.lines if line.share is not None})
    own = [line for line in matrix.lines if line.kind == "namm" and line.share is None]
    free = [line for line in matrix.lines if line.kind == "rival" and line.share is None]
    told = [("references", [line for line in matrix.lines if line.kind == "reference"])]
    told += [
        (f"{100 * share:.0f}% for everybody", _ordered(matrix, [at for at in matrix.lines if at.share == share]))
        for share in shares
    ]
    title = "NAMMs at the size that they choose" if shares else "NAMMs, and rivals of their size"
    told.append((title, [*_ordered(matrix, own), *_ordered(matrix, free)]))
    return [(title, lines) for title, lines in told if lines]


def mark(cell: MatrixCell) -> str:
    """How a NAMM compares with the best rival of its size; empty where it is compared with none."""
    test = cell.versus.get(cell.best_rival or "")
    if test is None:
        return ""
    side = "level" if not test.is_clear else "ahead" if test.difference.value > 0 else "behind"
    return MARKS[side]


def html(matrix: Matrix) -> str:
    """The heat map."""
    heads = [head("")] + [
        f"<th title='{escape(', '.join(column.targets))}'>{escape(column.title)}"
        f"<br><small>{size_of(column)}</small></th>"
        for column in matrix.columns
    ]
    lines = []
    for title, several in blocks(matrix):
        lines.append(f"<tr class='block'><th colspan='{len(matrix.columns) + 1}'>{escape(title)}</th></tr>")
        for line in several:
            kind = {"namm": " class='namm'", "reference": " class='reference'"}.get(line.kind, "")
            name = escape(line.name) + _runs_told(matrix, line)
            lines.append(f"<tr{kind}><th scope='row'>{name}</th>{''.join(_cells(matrix, line))}</tr>")
    return table(heads, lines, HELP)


def rich_table(matrix: Matrix) -> Table:
    """For a terminal."""
    shown = Table(title="transfer: % of the full cache's score (kept %)", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("", no_wrap=True)
    for column in matrix.columns:
        shown.add_column(f"{column.title}\n{size_of(column)}", justify="right")
    for title, lines in blocks(matrix):
        shown.add_row(f"[dim]{title}[/dim]")
        for line in lines:
            cells = [_short(matrix.cell(line, column)) for column in matrix.columns]
            shown.add_row(_plain_name(matrix, line), *cells, style="bold" if line.kind == "namm" else None)
    return shown


def markdown(matrix: Matrix) -> str:
    """For a document."""
    lines = [f"| | {' | '.join(f'{column.title} ({size_of(column)})' for column in matrix.columns)} |"]
    lines.append("|---|" + "---|" * len(matrix.columns))
    for title, several in blocks(matrix):
        lines.append(f"| *{title}* |" + " |" * len(matrix.columns))
        for line in several:
            cells = [_plain(matrix.cell(line, column)) for column in matrix.columns]
            name = _plain_name(matrix, line)
            lines.append(f"| {f'**{name}**' if line.kind == 'namm' else name} | {' | '.join(cells)} |")
    said = "\n".join(f"- {text}" for text in sentences(matrix))
    left = "\n".join(f"- {text}" for text in matrix.left_out)
    told = f"\nLeft out:\n\n{left}\n" if left else ""
    return "\n".join(lines) + f"\n\n{said}\n{told}"


def sentences(matrix: Matrix) -> list[str]:
    """One for each NAMM line."""
    return [sentence(matrix, line) for _, lines in blocks(matrix) for line in lines if line.kind == "namm"]


def _ordered(matrix: Matrix, lines: Sequence[Line]) -> list[Line]:
    """NAMMs first, then rivals; of each the best on average first."""

    def worth(line: Line) -> float:
        found = [cell.relative.value for column in matrix.columns if (cell := matrix.cell(line, column))]
        return sum(found) / len(found) if found else 0.0

    return sorted(lines, key=lambda line: (line.kind != "namm", -worth(line)))


def _cells(matrix: Matrix, line: Line) -> Iterator[str]:
    for column in matrix.columns:
        cell = matrix.cell(line, column)
        if cell is None:
            yield "<td>–</td>"
            continue
        part = min(max(cell.relative.value, 0.0), 100.0) / 100.0
        warmth = COLDEST + (WARMEST - COLDEST) * part
        colour = f"background: color-mix(in srgb, var(--heat-{'high' if part > 0.5 else 'low'}) " + (
            f"{warmth * abs(2 * part - 1):.0f}%, var(--card))"
        )
        runs = ", ".join(f"{name} {value:.1f}" for name, value in cell.by_run.items())
        targets = ", ".join(f"{name} {value:.1f}" for name, value in cell.by_target.items())
        about = f"{targets}; runs: {runs}; {cell.bytes / 1024:.0f} KiB and {cell.seconds:.2f} s a trial"
        native = f"; {cell.native:.1f}% of the native window" if cell.native is not None else ""
        yield (
            f"<td style='{colour}' title='{escape(about + native)}'>{small(cell.relative.text(1))} "
            f"{_marked(cell)}<br><small>{100 * cell.kept:.0f}% kept</small></td>"
        )


def _marked(cell: MatrixCell) -> str:
    shown = mark(cell)
    if not shown:
        return ""
    word = next(name for name, sign in MARKS.items() if sign == shown)
    told = {"ahead": "ahead of", "behind": "behind", "level": "not told apart from"}[word]
    return f"<span class='mark {word}' title='{told} {escape(str(cell.best_rival))}, the best rival'>{shown}</span>"


def _runs(matrix: Matrix, line: Line) -> int:
    return max((len(cell.by_run) for (at, _), cell in matrix.cells.items() if at == line), default=1)


def _runs_told(matrix: Matrix, line: Line) -> str:
    runs = _runs(matrix, line)
    return f" <small>{runs} runs</small>" if runs > 1 else ""


def _plain_name(matrix: Matrix, line: Line) -> str:
    runs = _runs(matrix, line)
    return f"{line.name} ({runs} runs)" if runs > 1 else line.name


def _plain(cell: MatrixCell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.relative.text(1)} ({100 * cell.kept:.0f}%) {mark(cell)}".strip()


def _short(cell: MatrixCell | None) -> str:
    return "–" if cell is None else f"{cell.relative.value:.1f} ({100 * cell.kept:.0f}%) {mark(cell) or ' '}"
