"""The transfer matrix: NAMMs evolved somewhere, attached unchanged to models of every modality, beside every rival.

    python evaluations/transfer.py                              what ships, offline
    python evaluations/transfer.py --quick                      two minutes
    python evaluations/transfer.py --namm text-v3 'text-v3-seed*' --target memory text --kept 0.25 0.1
    python evaluations/transfer.py --namm mine=runs/a,runs/b text-v2 --target real control=tmaze-150,hopper-medium
    python evaluations/transfer.py --reuse results/rl results/text

A line is a recipe with all of its runs, or a rival; a column is a group of targets. A cell says which part of the full
cache's score is left, and from which part of the tokens. Cells are those of rl.py, text.py and video.py: rows that are
there are reused, others are played, and the same command continues after any interruption. Writes rows.jsonl,
config.json, summary.md, matrix.png and report.html into --out, and mirrors to Weights & Biases.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

import modalities  # noqa: F401  (before transformers: lets torchvision be imported beside a CPU-only torch)
from evaluations.analysis.matrix import Matrix
from evaluations.commands.line import console, parsed, run_command, threads
from evaluations.matrix.config import TransferConfig

PROGRAM = "namm-transfer"


def run(config: TransferConfig, terminal: Console | None = None, command: str = PROGRAM) -> Matrix | None:
    """Plays what is not finished yet, draws the report and returns the matrix; None where another process leads.

    Args:
        config: What to compare; checked before anything is played.
        terminal: Where progress and tables go; silent by default.
        command: Shown in the report, as the way to continue.

    Raises:
        NammError: A setting or a file is wrong.
    """
    from evaluations.matrix.experiment import run_experiment

    with threads(config.threads):
        return run_experiment(config, terminal or Console(quiet=True), command)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""

    def work(arguments: Sequence[str], command: str) -> None:
        run(parsed(TransferConfig, arguments, PROGRAM, __doc__), console(), command)

    return run_command(PROGRAM, argv, work, "finished rows are kept")


if __name__ == "__main__":
    sys.exit(main())
