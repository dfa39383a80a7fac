"""What a long command says while it works: a live bar in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Display:
    """Progress over a known number of cells, as a context. Silent until `show` is called."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.done = console, total, 0
        self._shown = False
        self.start = time.perf_counter()
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (
                SpinnerColumn(),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self._progress = Progress(*columns, console=console, transient=True)
            self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        return self

    def show(self) -> None:
        """Begins to say what happens."""
        self._shown = True
        if self._progress is not None:
            self._progress.start()

    def hide(self) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()

    def expect(self, total: int) -> None:
        """Corrects the number of cells."""
        self.total = total
        if self._progress is not None:
            self._progress.update(self._task, total=total)

    def working_on(self, what: str) -> None:
        """Names what is being done now (shown in a terminal only)."""
        if self._progress is not None:
            self._progress.update(self._task, description=what)

    def finished(self, what: str, result: str) -> None:
        """Counts a cell and says in one line what came out of it."""
        self.done += 1
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done)
        elapsed = time.perf_counter() - self.start
        self.say(f"[{self.done}/{self.total}] {elapsed:5.0f} s  {what}: {result}")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._shown:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
