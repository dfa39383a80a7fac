"""Compares eviction policies on language: recall, needles, real text, and the benchmarks of the field.

    python evaluations/text.py                        offline, the shipped small Llama, every policy, a few minutes
    python evaluations/text.py --tasks recall needles/multikey --policy full namm h2o window@heads
    python evaluations/text.py --model meta-llama/Meta-Llama-3-8B --rope-factor 4 --dtype bfloat16 --device auto \\
        --tasks longbench --data LongBench/ --interval 512

Every policy reads the same prompts. The NAMM comes first; each rival gets the smallest budget whose mean size, when the
questions come, is not below the NAMM's. `POLICY@heads` gives a rival, in each layer and head, as much as the NAMM held
just there. Rows are kept as they finish, answers as their batch ends, and the same command continues after any
interruption. Writes rows.jsonl, config.json, summary.md and report.html into --out, and mirrors to Weights & Biases.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

import checkpoints
import modalities  # noqa: F401  (before transformers: lets torchvision be imported beside a CPU-only torch)
from evaluations.analysis.estimates import Estimate
from evaluations.boards.wandb_runs import Mode
from evaluations.commands.exit import exit_code, read_config
from evaluations.language.plan import ALLOCATED, RIVALS
from evaluations.rows.file import Row

SHIPPED = Path(checkpoints.__file__).parent


@dataclass(frozen=True)
class TextConfig:
    """Everything `text.py` can be told."""

    model: str = str(SHIPPED / "text" / "recall-llama")
    """A folder or Hub id of a causal language model."""

    namm: Path = SHIPPED / "namm" / "text-v2"
    """Folder of the NAMM."""

    policy: tuple[str, ...] = ("full", "namm:source", *RIVALS, f"window{ALLOCATED}", f"random{ALLOCATED}")
    """Policies to compare. A NAMM names its feature statistics: namm:source (also `namm`), namm:target,
    namm:sequence, or namm:released, the released code's arithmetic. POLICY@heads: the NAMM's size head by head."""

    tasks: tuple[str, ...] | None = None
    """recall, needles, corpus or one of theirs (pairs, needles/multikey, corpus/perplexity); a benchmark or one of
    its tasks (longbench, ruler/niah_single_1). Default: all that the model can do without data."""

    data: str | None = None
    """Folder of the benchmark's data, or OWNER/NAME on the Hub. Default: its home on the Hub, or made here."""

    templates: str | None = None
    """Folder or file of the benchmark's own prompt templates, or lm_eval. Default: beside the data."""

    lengths: tuple[int, ...] = (4096,)
    """Context lengths of benchmarks that make contexts or come in lengths (ruler, niah, babilong)."""

    prompt_set: str = "yarn_mistral"
    """Which of a benchmark's prompts, where it has several sets (infinitebench: yarn_mistral, gpt4, claude2)."""

    depths: tuple[int, ...] = (0, 25, 50, 75, 100)
    """Where the needle of niah lies, in percent of the context."""

    samples: int | None = None
    """Prompts a task and length, where a benchmark makes them. Default: as many as its source."""

    limit: int | None = None
    """First prompts of a benchmark's task only."""

    context_tokens: tuple[int, ...] = (384,)
    """Context lengths of recall, needles and corpus."""

    prompts: int = 32
    """Prompts a task, context length and seed of recall, needles and corpus."""

    intervals: tuple[int, ...] = (64,)
    """Tokens between two updates, multiples of 16; the released code has 512."""

    schedule: Literal["interval", "prompt"] = "interval"
    """Update at every interval, while reading and while answering, or once, when the context has been read, as
    methods for prefill do. Where the benchmark does not say what the question is, that is the whole prompt."""

    seeds: tuple[int, ...] = (0,)
    """Of drawn prompts, and of policies that draw; data that is read is asked once."""

    match: str | None = None
    """The NAMM whose mean size the rivals get. Default: the first one among --policy."""

    budget: int | None = None
    """Slots per KV head after an update, for every policy that forgets, NAMM included; nothing is matched then."""

    kept_fraction: float | None = None
    """The same as a part of each prompt. Prompts of different lengths are then read one by one."""

    budget_fraction: float | None = None
    """Most that a NAMM may keep of each prompt, where it is free; None leaves it to its threshold."""

    protect_last: int = 1
    """Newest tokens that no policy evicts, as released. More protect the end of the prompt, the question: a
    protocol of its own, told in every row."""

    window: int | None = None
    """Most tokens of a prompt and its answer; longer ones lose their middle. Default: the model's positions."""

    chat_template: bool = False
    """Wrap prompts in the model's chat template, in tasks whose source does so."""

    rope_factor: float | None = None
    """Stretch rotary positions by static NTK scaling, for so many context windows (Llama-3-8B at 32k: 4)."""

    rope_alpha: float = 2.0
    """Strength of that stretch, 2 as released."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the model; auto is what its checkpoint says."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, ..., or auto: accelerate spreads the layers over all devices."""

    batch: int = 32
    """Most prompts side by side."""

    batch_tokens: int = 32768
    """Most tokens side by side, padding included; one prompt is always read. Changes no result."""

    chunk: int | None = None
    """Most tokens of a prompt in one forward call; less room for a long prompt. Changes no result."""

    share: bool = True
    """Read once what prompts have in common. Changes no result."""

    example_tokens: int = 4096
    """Longest prompt that is shown with its kept tokens, one a task; 0 shows none."""

    workers: int = 1
    """Processes of this machine that share the cells, each with the model; several machines share --out."""

    threads: int = 1
    """Torch threads. Batches of a small model gain nothing from more, and lose much where others use the cores."""

    out: Path = Path("results/text")
    """Folder of the experiment; its name is the group in Weights & Biases."""

    wandb: Mode = "auto"
    """auto is online where somebody is logged in, else offline."""

    quick: bool = False
    """A short form to try things out: 8 prompts, one task of each kind."""

    config: Path | None = None
    """Start from the config.json of an earlier run; other options given here win."""


def run(config: TextConfig, console: Console | None = None, command: str = "namm-text") -> list[Row]:
    """Runs what is not finished yet, draws the report and returns all rows.

    Args:
        config: What to compare; checked before anything is read.
        console: Where progress and tables go; silent by default.
        command: Shown in the report, as the way to continue.

    Raises:
        NammError: A setting or a file is wrong.
    """
    from evaluations.language.experiment import run_experiment

    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return run_experiment(config, console or Console(quiet=True), command)
    finally:
        torch.set_num_threads(before)


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
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = Path(sys.argv[0]).name if sys.argv else "namm-text"
    command = shlex.join([*(["python", "evaluations/text.py"] if program == "text.py" else ["namm-text"]), *arguments])

    def work() -> None:
        console = Console() if sys.stdout.isatty() else Console(width=120)
        run(_parse(arguments), console, command)

    return exit_code(work, f"finished rows and answers are kept; continue with:\n  {command}")


def _parse(arguments: Sequence[str]) -> TextConfig:
    parse: Any = partial(tyro.cli, TextConfig, args=arguments, prog="namm-text")
    description = (__doc__ or "").partition("\n\n")[0]
    config = parse(description=description)
    if config.config is None:
        return config
    earlier = read_config(config.config, TextConfig, paths=("namm", "out"))
    return parse(description=description, default=earlier)


if __name__ == "__main__":
    sys.exit(main())
