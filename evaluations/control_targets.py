"""Which Decision Transformers act in which environments: the shipped targets, and what a user names instead.

A target is named by the user (`--env`, `--checkpoint`, `--dataset`) or is one of `SHIPPED`. Everything is loaded and
checked here, before any episode is played: names, files, dimensions, state statistics, target return.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from evaluations.control_cells import ControlTarget
from evaluations.harness import file_sha256
from evaluations.suites import SHIPPED, Shipped, best_for, require_checkpoints, targets_of
from evaluations.tasks import d4rl, register_all
from evaluations.tasks.d4rl_files import read_hdf5, read_minari
from modalities.control import FACTS_FILE, ControlModel, StateStatistics, find_checkpoint
from modalities.rollout import make_env
from namm.errors import ConfigError, UnknownNameError, did_you_mean

TARGET_RETURNS = {"hopper": 3600.0, "halfcheetah": 12000.0, "walker2d": 5000.0}
"""Returns that the Decision Transformer paper asks for, where a checkpoint does not say its own."""
PUBLISHED = re.compile(r"(hopper|halfcheetah|walker2d)-(medium-replay|medium-expert|medium|expert)$")


@dataclass(frozen=True)
class TargetOptions:
    """How targets are chosen; the fields of `evaluations.rl.RLConfig` that concern them."""

    suite: Sequence[str] = ()
    env: Sequence[str] = ()
    checkpoint: Sequence[str] = ()
    dataset: str | None = None
    episodes: int | None = None
    target_return: float | None = None
    max_steps: int | None = None
    quick: bool = False


def resolve_targets(options: TargetOptions, device: torch.device) -> list[tuple[ControlTarget, ControlModel]]:
    """Loads and checks every target.

    Raises:
        UnknownNameError: An environment is not known.
        CheckpointError: A checkpoint is missing, damaged or of another kind.
        ConfigError: Model and environment do not fit, or a setting is missing.
        DataError: The dataset is damaged.
    """
    register_all()
    statistics = None if options.dataset is None else dataset_statistics(options.dataset)
    found = []
    for name, source, env_id, shipped in _named(options):
        control = _load(source, env_id, statistics, options.dataset, device)
        found.append((_target(name, source, control, shipped, options), control))
    return found


def dataset_statistics(name: str) -> StateStatistics:
    """Mean and deviation of the states of a D4RL HDF5 file, a published D4RL set, or a Minari dataset.

    Raises:
        DataError: The file is missing or damaged, or there is no such dataset.
    """
    if Path(name).suffix in (".hdf5", ".h5") or Path(name).is_file():
        found = d4rl.state_statistics(read_hdf5(name))
    elif PUBLISHED.fullmatch(name.removesuffix("-v2")):
        found = d4rl.published_statistics(name.removesuffix("-v2"))
    else:
        found = d4rl.state_statistics(read_minari(name))
    return StateStatistics(found.mean, found.std)


def _named(options: TargetOptions) -> list[tuple[str, str, str | None, Shipped | None]]:
    """(target name, checkpoint, environment id or None for the checkpoint's own, shipped settings) of every target."""
    if options.suite and (options.env or options.checkpoint or options.dataset):
        raise ConfigError(
            f"--suite {' '.join(options.suite)} names targets with their own checkpoints and environments; drop --env, "
            "--checkpoint and --dataset, or drop --suite."
        )
    if options.checkpoint:
        return [_of_checkpoint(source, env, options) for source in options.checkpoint for env in options.env or (None,)]
    if not options.env:
        names = targets_of(options.suite or ("default",), options.quick)
        require_checkpoints(names)
        return [_shipped(name) for name in names]
    require_checkpoints(name for name in options.env if name in SHIPPED)
    return [_shipped(env) if env in SHIPPED else _of_environment(env) for env in options.env]


def _shipped(name: str) -> tuple[str, str, str | None, Shipped | None]:
    return name, str(SHIPPED[name].path), None, SHIPPED[name]


def _of_checkpoint(source: str, env: str | None, options: TargetOptions) -> tuple[str, str, str | None, Shipped | None]:
    shipped = None if Path(source).is_dir() else SHIPPED.get(source)
    if shipped:
        require_checkpoints([source])
    folder = str(shipped.path) if shipped else source
    if env in SHIPPED:
        raise ConfigError(
            f"With --checkpoint, --env must be a Gymnasium id such as Hopper-v5, found the target name {env!r}; drop "
            "one."
        )
    if env is not None:
        _check_registered(env)
    name = Path(source).name or source
    return (name if env is None or len(options.env) == 1 else f"{name} on {env}"), folder, env, shipped


def _of_environment(env: str) -> tuple[str, str, str | None, Shipped | None]:
    _check_registered(env)
    name = best_for(env)
    if name is not None:
        require_checkpoints([name])
        return f"{name} on {env}", str(SHIPPED[name].path), env, SHIPPED[name]
    raise ConfigError(
        f"No checkpoint is shipped for {env}; pass one with --checkpoint, or choose --env from {', '.join(SHIPPED)}."
    )


def _check_registered(env: str) -> None:
    try:
        gym.spec(env)
    except gym.error.Error as error:
        known = [*SHIPPED, *gym.registry]
        close = did_you_mean(env, known).partition("Known:")[0]
        raise UnknownNameError(
            f"Unknown environment {env!r}. {close}Use a target ({', '.join(SHIPPED)}) or any Gymnasium id."
        ) from error


def _load(
    source: str, env_id: str | None, statistics: StateStatistics | None, dataset: str | None, device: torch.device
) -> ControlModel:
    facts: dict[str, Any] = {}
    if not (find_checkpoint(source) / FACTS_FILE).is_file():
        published = PUBLISHED.search(source.removesuffix("-v2"))
        if statistics is None and published:
            found = d4rl.published_statistics(published.group(0))
            statistics = StateStatistics(found.mean, found.std)
        facts["reference_scores"] = _reference(dataset, env_id)
    return ControlModel.load(source, dataset_statistics=statistics, env_id=env_id, device=device, **facts)


def _reference(*names: str | None) -> tuple[float, float] | None:
    for name in names:
        try:
            return d4rl.reference_scores(Path(name).stem.replace("_", "-")) if name else None
        except UnknownNameError:
            continue
    return None


def _target(
    name: str, source: str, control: ControlModel, shipped: Shipped | None, options: TargetOptions
) -> ControlTarget:
    facts = control.facts
    env_kwargs = {**facts.env_kwargs, **(shipped.env_kwargs if shipped else {})}
    environment = make_env(facts.env_id, env_kwargs)
    try:
        control.check_environment(environment)
    finally:
        environment.close()
    robot = facts.env_id.lower().partition("-")[0]
    candidates = (options.target_return, facts.target_return, TARGET_RETURNS.get(robot))
    target_return = next((value for value in candidates if value is not None), None)
    if target_return is None:
        raise ConfigError(f"{name} does not say which return to ask for; pass --target-return.")
    episodes = options.episodes
    if episodes is None:
        episodes = (shipped.quick_episodes if options.quick else shipped.episodes) if shipped else 4
    return ControlTarget(
        name=name,
        checkpoint=source,
        env_id=facts.env_id,
        target_return=float(target_return),
        episodes=episodes,
        env_kwargs=env_kwargs,
        max_steps=options.max_steps,
        checkpoint_sha256=file_sha256(find_checkpoint(source) / "model.safetensors"),
    )


def check_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        ConfigError: If it is not there.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"The device must be cpu, cuda or another that torch sees, found {name!r} ({reason})."
        ) from error
    return device
