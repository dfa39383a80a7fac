"""A command line: what it says, how it is repeated, and how many threads torch may take for it.

Every experiment is configured by a frozen dataclass; its fields are the options, a `config.json` of an earlier run may
be passed back with --config, and options that are given beside it win.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from rich.console import Console

from evaluations.commands.exit import exit_code, read_config
from evaluations.rows.results import Results
from namm.errors import ConfigError
from namm.typed import check_fields

Config = TypeVar("Config", bound=Any)
WIDTH = 120
"""Columns of what is written where no terminal is."""


def parsed(
    kind: type[Config],
    arguments: Sequence[str],
    program: str,
    about: str | None,
    preset: Callable[[Config], Config | None] = lambda config: None,
) -> Config:
    """What a command line says, over the earlier configuration that its --config names.

    Args:
        kind: Dataclass of the options; its field `config` is the path of an earlier config.json, or None.
        arguments: Of the command.
        program: Name of the command.
        about: Docstring of its module; the first paragraph heads the help.
        preset: What options that were given have for all others, such as a suite; an earlier configuration has all.

    Raises:
        ConfigError: The earlier configuration cannot be used, or an option has an impossible value.
    """
    parse: Any = tyro.cli
    told = {"args": list(arguments), "prog": program, "description": (about or "").partition("\n\n")[0]}
    config = parse(kind, **told)
    default = preset(config) if config.config is None else read_config(config.config, kind)
    if default is not None:
        config = parse(kind, **told, default=default)
    check_fields(config)
    return config


def repeated(program: str, arguments: Sequence[str]) -> str:
    """The command as it was given, to be given again: through its script where that was run.

    Args:
        program: Name of the installed command, `namm-` and the script's name.
        arguments: Of the command.
    """
    script = f"{program.removeprefix('namm-')}.py"
    ran = Path(sys.argv[0]).name if sys.argv else program
    return shlex.join([*(["python", f"evaluations/{script}"] if ran == script else [program]), *arguments])


def run_command(
    program: str, argv: Sequence[str] | None, work: Callable[[Sequence[str], str], object], kept: str
) -> int:
    """Does what a command line says and returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted.

    Args:
        program: Name of the installed command.
        argv: Its arguments; None for those of this process.
        work: Takes them, and the command as it is to be repeated.
        kept: What an interruption leaves, to be said with the way to go on.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = repeated(program, arguments)
    return exit_code(lambda: work(arguments, command), f"{kept}; continue with:\n  {command}")


def console() -> Console:
    """Where progress and tables go."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads for torch inside the block.

    Raises:
        ConfigError: There must be one.
    """
    if number < 1:
        raise ConfigError(f"--threads must be 1 or more, found {number}.")
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_results(folder: Path, terminal: Console) -> Results:
    """The rows of an experiment; what is wrong with them and was put right is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = Results(folder)
    for warning in caught:
        terminal.print(f"warning: {warning.message}", markup=False, soft_wrap=True)
    return results
