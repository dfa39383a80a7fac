"""Attaches a NAMM evolved on text, unchanged, to Decision Transformers in real simulators, beside every rival policy.

    python evaluations/rl.py                                    the shipped targets, every policy, about two minutes
    python evaluations/rl.py --suite d4rl                       the nine locomotion cells of D4RL
    python evaluations/rl.py --env tmaze-150 --policy full namm:target h2o --curve 5
    python evaluations/rl.py --checkpoint edbeeching/decision-transformer-gym-hopper-medium
    python evaluations/rl.py --checkpoint FOLDER_OR_HUB_ID --env Hopper-v4 --dataset hopper_medium-v2.hdf5

NAMM runs first; the budget of each rival is then the smallest one whose mean size is not below that of the best NAMM.
Rows are kept as they finish, and the same command continues after any interruption. Writes rows.jsonl, config.json,
summary.md and report.html into --out, and mirrors to Weights & Biases.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
import tyro
from rich.console import Console

import modalities  # noqa: F401  (before transformers: lets torchvision be imported beside a CPU-only torch)
from evaluations.boards.wandb_runs import Tracker
from evaluations.commands.devices import check_device
from evaluations.commands.exit import exit_code, read_config
from evaluations.control.cells import RESET_SEEDS
from evaluations.control.config import RLConfig
from evaluations.control.experiment import ControlExperiment
from evaluations.control.plan import PROTECTED_LAST, PolicySpec
from evaluations.control.setup import ControlSetup
from evaluations.control.targets import TargetOptions
from evaluations.rows.results import Results
from modalities.control.agents import find_checkpoint
from modalities.control.facts import reference_pair
from modalities.control.rollout import check_lanes
from namm.config import check_interval
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.features import StatisticsMode
from namm.policies import POLICIES
from namm.policies.base import Selection
from namm.typed import Origin, check_fields

STATISTICS: tuple[str, ...] = get_args(StatisticsMode)
PLAYING = tuple(name for name, policy in POLICIES.items() if policy.foresees is None)
"""Policies for episodes: what follows depends on what is done, so that nobody can read it ahead."""
POLICY_NAMES = ("native_window", *PLAYING, *(f"namm:{mode}" for mode in STATISTICS))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = _command(arguments)

    def work() -> None:
        config = _parse(arguments)
        with _threads(config.threads):
            run(config, command)

    return exit_code(work, f"finished rows are kept; continue with:\n  {command}")


def run(config: RLConfig, command: str = "namm-rl") -> Path:
    """Runs an experiment and returns the path of its report.

    Args:
        config: What to run; everything in it is checked before the first episode.
        command: Shown in the report, as the way to continue.

    Raises:
        NammError: Anything wrong in the configuration or in the files it names.
    """
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if config.quick:
        config = replace(config, seeds=config.seeds[:1])
    specs = _check(config)
    check_device(config.device)
    results = _open(config.out, console)
    setup = ControlSetup(
        targets=TargetOptions(**{entry.name: getattr(config, entry.name) for entry in fields(TargetOptions)}),
        namm=config.namm if any(spec.name == "namm" for spec in specs) else None,
        device=config.device,
        interval=config.interval,
        threads=config.threads,
        trace_seed=config.seeds[0],
        simulators=_simulators(config),
        lanes=config.lanes,
        store=config.store,
    )
    runners = setup.load()
    resolved = {**asdict(config), "config": None}
    results.write_config(resolved)
    written = json.loads((config.out / "config.json").read_text(encoding="utf-8"))
    folders = {r.target.checkpoint_sha256: find_checkpoint(r.target.checkpoint) for r in runners.values()}
    folders |= {runner.namm.sha256(): config.namm for runner in runners.values() if runner.namm is not None}
    with Tracker(config.wandb, config.out, written, folders) as tracker:
        for line in tracker.unsaid():
            console.print(line, markup=False, soft_wrap=True)
        experiment = ControlExperiment(
            setup=setup,
            specs=specs,
            seeds=config.seeds,
            budget=config.budget,
            match=config.match,
            curve=config.curve,
            curve_seeds=config.seeds[:2] if config.curve_seeds is None else config.curve_seeds,
            video=config.video,
            workers=config.workers,
        )
        report = experiment.run(runners, results, tracker, console, command, resolved)
        for line in tracker.unsaid():
            console.print(line, markup=False, soft_wrap=True)
        return report


def _simulators(config: RLConfig) -> int | None:
    """As asked; where several processes play cells on this machine, these have its cores already."""
    shared = config.workers > 1 or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
    return 0 if config.simulators is None and shared else config.simulators


def parse_policies(names: Sequence[str]) -> list[PolicySpec]:
    """Policies as users name them, each once, in order.

    Raises:
        UnknownNameError: A policy, or whose statistics a NAMM uses, is not known.
    """
    specs: dict[PolicySpec, None] = {}
    for name in names:
        if name not in POLICY_NAMES:
            if name in POLICIES:
                raise ConfigError(
                    f"Policy {name!r} reads ahead what follows, which in an episode depends on what is done; expected "
                    f"one that judges by the past, such as {', '.join(PLAYING[1:4])}."
                )
            raise UnknownNameError(f"Unknown policy {name!r}. {did_you_mean(name, POLICY_NAMES)}")
        base, _, mode = name.partition(":")
        modes = [mode] if mode else STATISTICS if base == "namm" else [None]
        specs |= dict.fromkeys(PolicySpec(base, mode) for mode in modes)
    return list(specs)


def _check(config: RLConfig) -> list[PolicySpec]:
    """The policies, after everything that can be checked without opening a file."""
    check_fields(config)
    if config.reference is not None:
        reference_pair(*config.reference, Origin("--reference"))
    specs = parse_policies(config.policy)
    check_interval(config.interval)
    for spec in specs:
        if not spec.is_reference and config.budget is not None:
            Selection(
                interval=config.interval,
                budget=config.budget,
                protected_first=spec.protected_first,
                protected_last=PROTECTED_LAST,
            )
    has_namm = any(spec.name == "namm" for spec in specs)
    rivals = [spec.name for spec in specs if spec.needs_budget]
    if rivals and not has_namm and config.budget is None:
        raise ConfigError(
            f"{', '.join(rivals)} need a size: pass --budget, or run a namm policy beside them to be matched to."
        )
    variants = [f"namm:{spec.statistics}" for spec in specs if spec.name == "namm"]
    if config.match != "best" and config.match not in variants:
        raise UnknownNameError(
            f"--match names no NAMM of this run: {config.match!r}. {did_you_mean(config.match, ['best', *variants])}"
        )
    for name, value in (("seeds", config.seeds), ("policy", config.policy)):
        if not value:
            raise ConfigError(f"--{name} must name at least one, found none.")
    for name, least in (("episodes", 1), ("max_steps", 1), ("workers", 1), ("simulators", 0), ("curve", 0)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be {least} or more, found {value}.")
    check_lanes(config.lanes)
    if (config.episodes or 1) > RESET_SEEDS:
        raise ConfigError(
            f"--episodes must be {RESET_SEEDS} or fewer, found {config.episodes}: seeds would share episodes."
        )
    if min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"--seeds must be different numbers of 0 or more, found {list(config.seeds)}.")
    if config.curve and "full" not in [spec.name for spec in specs]:
        raise ConfigError("--curve needs full among --policy: it is where every curve ends.")
    if config.curve_seeds is not None and (not config.curve_seeds or not set(config.curve_seeds) <= set(config.seeds)):
        raise ConfigError(
            f"--curve-seeds must be some of --seeds ({list(config.seeds)}), found {list(config.curve_seeds)}."
        )
    return specs


def _open(folder: Path, console: Console) -> Results:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = Results(folder)
    for warning in caught:
        console.print(f"warning: {warning.message}", markup=False, soft_wrap=True)
    return results


def _parse(arguments: Sequence[str]) -> RLConfig:
    parse: Any = partial(tyro.cli, RLConfig, args=arguments, prog="namm-rl")
    description = (__doc__ or "").partition("\n\n")[0]
    config = parse(description=description)
    if config.config is None:
        return config
    return parse(description=description, default=read_config(config.config, RLConfig))


def _command(arguments: Sequence[str]) -> str:
    program = Path(sys.argv[0]).name if sys.argv else "namm-rl"
    start = ["python", "evaluations/rl.py"] if program == "rl.py" else ["namm-rl"]
    return shlex.join([*start, *arguments])


@contextmanager
def _threads(number: int) -> Iterator[None]:
    if number < 1:
        raise ConfigError(f"--threads must be 1 or more, found {number}.")
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(main())
