"""Compares eviction policies on language: recall, needles, real text, and the benchmarks of the field.

    python evaluations/text.py                        offline, the shipped small Llama, every policy, a few minutes
    python evaluations/text.py --tasks recall needles/multikey --policy full namm h2o window@heads
    python evaluations/text.py --model meta-llama/Meta-Llama-3-8B --rope-factor 4 --dtype bfloat16 --device auto \\
        --tasks longbench --data LongBench/ --intervals 512

Every policy reads the same prompts. The NAMM comes first; each rival gets the smallest budget whose mean size, when the
questions come, is not below the NAMM's. `POLICY@heads` gives a rival, in each layer and head, as much as the NAMM held
just there. Rows are kept as they finish, answers as their batch ends, and the same command continues after any
interruption. Writes rows.jsonl, config.json, summary.md and report.html into --out, and mirrors to Weights & Biases.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console

import modalities  # noqa: F401  (before transformers: lets torchvision be imported beside a CPU-only torch)
from evaluations.analysis.estimates import Estimate
from evaluations.commands.line import console, parsed, run_command, threads
from evaluations.language.config import TextConfig
from evaluations.language.real_suite import suite_options
from evaluations.rows.file import Row

PROGRAM = "namm-text"


def run(config: TextConfig, terminal: Console | None = None, command: str = PROGRAM) -> list[Row]:
    """Runs what is not finished yet, draws the report and returns all rows.

    Args:
        config: What to compare; checked before anything is read.
        terminal: Where progress and tables go; silent by default.
        command: Shown in the report, as the way to continue.

    Raises:
        NammError: A setting or a file is wrong.
    """
    from evaluations.language.experiment import run_experiment

    with threads(config.threads):
        return run_experiment(config, terminal or Console(quiet=True), command)


def summarise(rows: Sequence[Row]) -> Iterator[tuple[str, str, int, int, Estimate, float, float]]:
    """Policy, task ("all" for the mean), context tokens, interval, score, kept fraction, score relative to full.

    Scores are from 0 to 1; of rows whose score is a percentage. Intervals are 95% bootstrap intervals over prompts,
    stratified by task; the relative score is the mean over tasks of the score divided by the full cache's on the same
    prompts.
    """
    from evaluations.language.conditions import lines

    return lines(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""

    def work(arguments: Sequence[str], command: str) -> None:
        run(configuration(arguments), console(), command)

    return run_command(PROGRAM, argv, work, "finished rows and answers are kept")


def configuration(arguments: Sequence[str]) -> TextConfig:
    """What a command line asks for; what it gives wins over its suite.

    Raises:
        ConfigError: An option has an impossible value.
    """
    return parsed(TextConfig, arguments, PROGRAM, __doc__, _of_suite)


def _of_suite(config: TextConfig) -> TextConfig | None:
    """What the suite that is named has for all options."""
    if config.suite is None:
        return None
    return replace(TextConfig(), **suite_options(config.suite, config.quick, config.data, config.device))


if __name__ == "__main__":
    sys.exit(main())
