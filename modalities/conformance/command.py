"""Examines whether a model of any kind keeps what a memory promises, clause by clause.

    namm-check meta-llama/Llama-3.2-1B              a name on the Hub, or a folder
    namm-check tiny:gemma2                          a tiny random model of a family
    namm-check my_package.models:build              what a function of yours makes; also file.py:build
    namm-check mine.py:build --adapter mine.py:MyAdapter --json verdict.json

Exit status 0: every clause holds; 1: one fails, or the model cannot be attached; 2: a mistake in the input, such as a
model that does not load or does not run by itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from transformers.utils import logging

from modalities.conformance.case import BUDGET
from modalities.conformance.examine import Verdict, lines, subject_of, verdict_on
from modalities.conformance.loading import load, load_adapter
from namm.errors import NammError
from namm.files import write_atomically
from namm.terminal import any_terminal

PROGRAM = "namm-check"
FAILED, WRONG, INTERRUPTED = 1, 2, 130
PACKAGES = ("namm-suite", "torch", "transformers")


@dataclass(frozen=True)
class Arguments:
    """What is examined, and how."""

    model: tyro.conf.Positional[str]
    """A folder, a Hub id, FILE.gguf, smollm2, gemma3-270m, ``tiny:FAMILY`` (a random model of a family), or
    ``module:function`` or ``file.py:function``, which makes a model of any kind that an adapter takes."""

    adapter: str | None = None
    """``module:Class`` or ``file.py:Class``: the adapter to ask. Default: those that are registered."""

    clause: tuple[str, ...] = ()
    """Names of clauses. Default: all."""

    json: Path | None = None
    """File for the verdict, for programs."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; only in float32 are small errors told from rounding."""

    device_map: str | None = None
    """Where the weights go, as in transformers (``auto``); None leaves them on the CPU."""

    trust_remote_code: bool = False
    """Whether the folder's own Python files may run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        with any_terminal():
            arguments = tyro.cli(Arguments, args=argv, prog=PROGRAM, description=__doc__)
            logging.set_verbosity_error()
            return 0 if _examined(arguments).conforms else FAILED
    except SystemExit as ended:  # tyro: a wrong option, or --help; a pipe that nobody reads
        return ended.code if isinstance(ended.code, int) else WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except (NammError, OSError) as error:
        if os.environ.get("NAMM_DEBUG") == "1":
            raise
        print(f"error: {error}\nNOT EXAMINED", file=sys.stderr)
        return WRONG


def _examined(arguments: Arguments) -> Verdict:
    """Says what becomes of each clause as it comes, then the verdict."""
    adapter = None if arguments.adapter is None else load_adapter(arguments.adapter)
    model = load(arguments.model, getattr(torch, arguments.dtype), arguments.device_map, arguments.trust_remote_code)
    subject = subject_of(model, arguments.model, adapter)
    verdict = verdict_on(subject, arguments.clause, watch=lambda check: print(lines(check), flush=True))
    print(verdict.summary)
    if verdict.report:
        print(f"What a memory of {BUDGET} slots held of it:\n{verdict.report}")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        told = {**verdict.as_json(), "dtype": arguments.dtype, "versions": _versions()}
        write_atomically(arguments.json, f"{json.dumps(told, indent=2)}\n".encode())
    return verdict


def _versions() -> dict[str, Any]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a folder that is not installed
            found[package] = None
    return found
