"""Compares eviction policies on video: clips drawn here and benchmarks of the field, watched by a video-language model.

    python evaluations/video.py                       offline, the shipped small model, a few minutes
    python evaluations/video.py --quick               four clips, five policies
    python evaluations/video.py --model llava-hf/LLaVA-NeXT-Video-7B-hf --benchmark longvideobench --data DIR \\
        --frames 48 --rope-factor 2 --dtype bfloat16 --device auto --interval 512 --clip ViT-L-14-336:openai

Every policy is asked the same questions when all frames have passed. The NAMM comes first; each rival gets the smallest
budget whose mean size is then not below the NAMM's. Rows are kept as they finish, answers as their batch ends, and the
same command continues after any interruption. A video that cannot be read is a fault of the questions about it: they
are listed as failed and not scored. Writes rows.jsonl, config.json, summary.md and report.html into --out, and mirrors
to Weights & Biases.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

import modalities  # noqa: F401  (before transformers: lets torchvision be imported beside a CPU-only torch)
from evaluations.commands.line import console, parsed, run_command, threads
from evaluations.rows.file import Row
from evaluations.vision.config import VideoConfig

PROGRAM = "namm-video"


def run(config: VideoConfig, terminal: Console | None = None, command: str = PROGRAM) -> list[Row]:
    """Runs what is not finished yet, draws the report and returns all rows.

    Args:
        config: What to compare; checked before anything is watched.
        terminal: Where progress and tables go; silent by default.
        command: Shown in the report, as the way to continue.

    Raises:
        NammError: A setting or a file is wrong.
    """
    from evaluations.vision.experiment import run_experiment

    with threads(config.threads):
        return run_experiment(config, terminal or Console(quiet=True), command)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""

    def work(arguments: Sequence[str], command: str) -> None:
        run(parsed(VideoConfig, arguments, PROGRAM, __doc__), console(), command)

    return run_command(PROGRAM, argv, work, "finished rows and answers are kept")


if __name__ == "__main__":
    sys.exit(main())
