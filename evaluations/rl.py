"""Attaches a NAMM evolved on text, unchanged, to Decision Transformers in real simulators, beside every rival policy.

    python evaluations/rl.py                                    the shipped targets, every policy, a few minutes
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
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import modalities  # noqa: F401  (before transformers: lets torchvision be imported beside a CPU-only torch)
from evaluations.boards.wandb_runs import Tracker
from evaluations.commands.devices import check_device
from evaluations.commands.line import console, open_results, parsed, run_command, threads
from evaluations.control.cells import RESET_SEEDS
from evaluations.control.config import NAMES, RLConfig
from evaluations.control.experiment import ControlExperiment
from evaluations.control.plan import PROTECTED_LAST
from evaluations.control.setup import ControlSetup
from evaluations.control.targets import TargetOptions
from evaluations.experiment.checks import check_curve, check_least, check_seeds
from evaluations.experiment.names import NamedPolicy, named
from evaluations.rows.policy_names import PolicyName
from modalities.control.agents import find_checkpoint
from modalities.control.facts import reference_pair
from modalities.control.rollout import check_lanes
from namm.config import check_interval
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.policies.base import Selection
from namm.typed import Origin, check_fields

PROGRAM = "namm-rl"
QUICK = RLConfig(seeds=(0,))
"""What the short form has where the command line says nothing else, beside what its targets have."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""

    def work(arguments: Sequence[str], command: str) -> None:
        config = parsed(RLConfig, arguments, PROGRAM, __doc__, lambda given: QUICK if given.quick else None)
        with threads(config.threads):
            run(config, command)

    return run_command(PROGRAM, argv, work, "finished rows are kept")


def run(config: RLConfig, command: str = PROGRAM) -> Path:
    """Runs an experiment and returns the path of its report.

    Args:
        config: What to run; everything in it is checked before the first episode.
        command: Shown in the report, as the way to continue.

    Raises:
        NammError: Anything wrong in the configuration or in the files it names.
    """
    terminal = console()
    specs = _check(config)
    check_device(config.device)
    results = open_results(config.out, terminal)
    setup = ControlSetup(
        targets=TargetOptions(**{entry.name: getattr(config, entry.name) for entry in fields(TargetOptions)}),
        namm=config.namm if any(spec.is_namm for spec in specs) else None,
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
            terminal.print(line, markup=False, soft_wrap=True)
        experiment = ControlExperiment(
            setup=setup,
            specs=specs,
            seeds=config.seeds,
            budget=config.budget,
            match=config.match if config.match == "best" else str(PolicyName.parse(config.match)),
            curve=config.curve,
            curve_seeds=config.seeds[:2] if config.curve_seeds is None else config.curve_seeds,
            video=config.video,
            workers=config.workers,
        )
        report = experiment.run(runners, results, tracker, terminal, command, resolved)
        for line in tracker.unsaid():
            terminal.print(line, markup=False, soft_wrap=True)
        return report


def _simulators(config: RLConfig) -> int | None:
    """As asked; where several processes play cells on this machine, these have its cores already."""
    shared = config.workers > 1 or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
    return 0 if config.simulators is None and shared else config.simulators


def _check(config: RLConfig) -> tuple[NamedPolicy, ...]:
    """The policies, after everything that can be checked without opening a file."""
    check_fields(config)
    if config.reference is not None:
        reference_pair(*config.reference, Origin("--reference"))
    specs = named(config.policy, NAMES, streams=True)
    check_interval(config.interval)
    for spec in specs:
        if not spec.is_reference and config.budget is not None:
            Selection(
                interval=config.interval,
                budget=config.budget,
                protected_first=spec.protected_first,
                protected_last=PROTECTED_LAST,
            )
    variants = [spec.label for spec in specs if spec.is_namm]
    rivals = [spec.label for spec in specs if spec.is_rival]
    if rivals and not variants and config.budget is None:
        raise ConfigError(
            f"{', '.join(rivals)} need a size: pass --budget, or run a namm policy beside them to be matched to."
        )
    if config.match != "best" and str(PolicyName.parse(config.match)) not in variants:
        raise UnknownNameError(
            f"--match names no NAMM of this run: {config.match!r}. {did_you_mean(config.match, ['best', *variants])}"
        )
    check_seeds(config.seeds)
    check_least(config, {"episodes": 1, "max_steps": 1, "workers": 1, "simulators": 0, "curve": 0})
    check_lanes(config.lanes)
    if (config.episodes or 1) > RESET_SEEDS:
        raise ConfigError(
            f"--episodes must be {RESET_SEEDS} or fewer, found {config.episodes}: seeds would share episodes."
        )
    check_curve(specs, config.curve)
    if config.curve_seeds is not None and (not config.curve_seeds or not set(config.curve_seeds) <= set(config.seeds)):
        raise ConfigError(
            f"--curve-seeds must be some of --seeds ({list(config.seeds)}), found {list(config.curve_seeds)}."
        )
    return specs


if __name__ == "__main__":
    sys.exit(main())
