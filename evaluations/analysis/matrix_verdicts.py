"""One sentence a line of the transfer matrix: what its intervals and corrected tests support, and nothing else."""

from __future__ import annotations

from evaluations.analysis.estimates import SIGNIFICANCE
from evaluations.analysis.matrix import Column, Line, Matrix, MatrixCell
from evaluations.analysis.verdicts import SIZE_TOLERANCE, join, paired
from evaluations.rows.policy_names import FULL


def sentence(matrix: Matrix, line: Line) -> str:
    """What may be said of a line, column by column."""
    parts = [
        f"{column.title}: {_cell(matrix, line, cell)}"
        for column in matrix.columns
        if (cell := matrix.cell(line, column)) is not None
    ]
    return f"{_name(matrix, line)}. " + "; ".join(parts) + "." if parts else ""


def _name(matrix: Matrix, line: Line) -> str:
    runs = max((len(matrix.cells[at].by_run) for at in matrix.cells if at[0] == line), default=1)
    several = f" ({runs} runs)" if line.kind == "namm" and runs > 1 else ""
    own = ", at the size that it chooses" if line.kind == "namm" and line.share is None else ""
    return f"{line.label}{several}{own}"


def _cell(matrix: Matrix, line: Line, cell: MatrixCell) -> str:
    told = f"{cell.relative.text(1)}% of the full cache from {100 * cell.kept:.0f}%"
    if line.kind != "namm":
        return told
    if len(cell.by_run) > 1:
        told += f", runs from {min(cell.by_run.values()):.1f} to {max(cell.by_run.values()):.1f}"
    told += _against_full(cell)
    rivals = {name: test for name, test in cell.versus.items() if name != FULL}
    ahead = [name for name, test in rivals.items() if test.is_clear and test.difference.value > 0]
    behind = [name for name, test in rivals.items() if test.is_clear and test.difference.value < 0]
    level = [name for name in rivals if name not in ahead and name not in behind]
    if rivals and max(test.smallest_p_value for test in rivals.values()) * len(rivals) >= SIGNIFICANCE:
        told += ", too few trials to tell it apart from its rivals"
    elif rivals and len(ahead) == len(rivals):
        told += f", ahead of all {len(rivals)} rivals"
    else:
        told += f", ahead of {join(ahead)}" if ahead else ""
        told += f", behind {join([f'{name} ({paired(rivals[name])})' for name in behind])}" if behind else ""
        told += f", not told apart from {join(level)}" if level else ""
    return told + _unequal(matrix, line, cell)


def _against_full(cell: MatrixCell) -> str:
    test = cell.versus.get(FULL)
    if test is None or test.smallest_p_value >= SIGNIFICANCE:
        return ""
    if not test.is_clear:
        return ", not told apart from it"
    return ", ahead of it" if test.difference.value > 0 else ", behind it"


def _unequal(matrix: Matrix, line: Line, cell: MatrixCell) -> str:
    """Says so where a rival of the same name of size holds another part than the line does."""
    others = {
        other.name: found.kept
        for (other, column), found in matrix.cells.items()
        if other.kind == "rival" and other.share == line.share and column == _column(matrix, cell)
    }
    most = SIZE_TOLERANCE * cell.kept
    off = [f"{name} {100 * kept:.0f}%" for name, kept in others.items() if abs(kept - cell.kept) > most]
    return f" (not of equal size: {join(off)})" if off else ""


def _column(matrix: Matrix, cell: MatrixCell) -> str:
    return next(column for (_, column), found in matrix.cells.items() if found is cell)


def size_of(column: Column) -> str:
    """How much a column is the mean of."""
    return f"{len(column.targets)} target{'s' * (len(column.targets) > 1)}"
