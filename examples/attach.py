"""Attach a NAMM to a language model, generate, and see what it kept: `python examples/attach.py`.

Runs offline in seconds on the models that ship. With `--model` it is your own: a folder, or a name on the Hub. Four
steps do everything; copy them.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import checkpoints
import modalities  # noqa: F401  (before transformers: makes it importable beside a CPU-only torch)
from evaluations.commands.exit import exit_code
from evaluations.experiment.names import policy_of
from evaluations.report.figures import png
from evaluations.report.kept_figures import held_now, kept_tokens
from modalities import attach
from modalities.pretrained import load_model, load_tokenizer
from modalities.pretrained.precision import quick_dtype
from namm.errors import DataError
from namm.files import write_atomically

SHIPPED = Path(checkpoints.__file__).parent


@dataclass(frozen=True)
class Example:
    """One prompt, one model, one policy."""

    model: str = str(SHIPPED / "text" / "recall-llama")
    """Folder or Hub name of a causal language model, FILE.gguf, smollm2 or gemma3-270m."""
    policy: str = "namm"
    """`namm`, `namm:sequence`, `full`, `h2o`, `window`, ..."""
    namm: Path | None = None
    """Folder of a NAMM; the shipped one by default."""
    budget: int | None = None
    """Slots per KV head. A NAMM does without: it keeps what it scores above zero."""
    interval: int | None = None
    """Tokens between two updates; a NAMM brings its own."""
    prompt: Path | None = None
    """A text file; the source of Python's textwrap by default."""
    prompt_tokens: int = 600
    """First tokens of it that are read."""
    new_tokens: int = 40
    """Tokens generated."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the model runs."""
    picture: Path = Path("kept.png")
    """Where the picture of what was kept is written."""


def run(example: Example) -> None:
    """Reads, generates, reports, draws."""
    # 1. your model: as AutoTokenizer and AutoModelForCausalLM give it, or by the names that the commands know
    model = load_model(example.model)
    model = model.to(example.device, quick_dtype(model.dtype, example.device))
    tokenizer = load_tokenizer(example.model)

    # 2. a policy: NAMM.from_pretrained(folder), or any other by name
    options = {"budget": example.budget, "interval": example.interval}
    given = {name: value for name, value in options.items() if value is not None}
    policy, _ = policy_of(example.policy, example.namm, given)

    # 3. attached, the model's own generate() runs on a memory that forgets
    cut = {"truncation": True, "max_length": example.prompt_tokens, "return_token_type_ids": False}
    inputs = tokenizer(_text(example.prompt), return_tensors="pt", **cut).to(example.device)
    read = inputs["input_ids"].shape[1]
    with attach(model, policy) as memory:
        out = model.generate(**inputs, max_new_tokens=example.new_tokens, do_sample=False)
    print(tokenizer.decode(out[0, read:], skip_special_tokens=True), end="\n\n")

    # 4. what it cost, and what it kept
    print(memory.report())
    example.picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(example.picture, png(kept_tokens(held_now(memory), prompt_tokens=read)))
    print(f"\nwhat was kept: {example.picture}")


def _text(path: Path | None) -> str:
    if path is None:
        return inspect.getsource(textwrap)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompt must be a text file, found {path} ({error}).") from error


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    description = (__doc__ or "").partition("\n\n")[0]
    return exit_code(lambda: run(tyro.cli(Example, args=argv, description=description)), "nothing was written.")


if __name__ == "__main__":
    sys.exit(main())
