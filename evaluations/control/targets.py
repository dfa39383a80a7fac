"""Which Decision Transformers act in which environments: the shipped targets, and what a user names instead.

A target is named by the user (`--env`, `--checkpoint`, `--dataset`) or is one of `SHIPPED`. Everything is loaded and
checked here, before any episode is played: names, files, dimensions, state statistics, target return.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from evaluations.control.cells import ControlTarget
from evaluations.control.shipped import SHIPPED, Shipped, best_for, require_checkpoints, targets_of
from evaluations.rows.score_kinds import ScoreKind
from evaluations.tasks import register_all
from evaluations.tasks.control import d4rl
from evaluations.tasks.control.contradictions import score_remarks
from evaluations.tasks.control.find import DatasetFacts, dataset_facts, published_facts
from modalities.control.agents import FACTS_FILE, ControlFacts, ControlModel, find_checkpoint
from modalities.control.rollout import make_env
from modalities.control.weights import hub_id, weight_files
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.files import file_sha256
from namm.typed import option

TARGET_RETURNS = {"hopper": 3600.0, "halfcheetah": 12000.0, "walker2d": 5000.0}
"""What the Decision Transformer paper asks for, where a checkpoint does not say; elsewhere an expert's return."""


@dataclass(frozen=True)
class TargetOptions:
    """How targets are chosen; the fields of `evaluations.control.config.RLConfig` that concern them."""

    suite: Sequence[str] = ()
    env: Sequence[str] = ()
    checkpoint: Sequence[str] = ()
    dataset: str | None = None
    episodes: int | None = None
    target_return: float | None = None
    return_scale: float | None = None
    context_steps: int | None = None
    reference: tuple[float, float] | None = None
    score: ScoreKind = "auto"
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
    named = _named(options)
    dataset = None if options.dataset is None else dataset_facts(options.dataset)
    given = {"return_scale": options.return_scale, "context_steps": options.context_steps}
    given |= {"reference_scores": options.reference}
    given = {name: value for name, value in given.items() if value is not None}
    found = []
    for name, source, env_id, shipped in named:
        control, remarks = _load(source, env_id, dataset, device, given)
        found.append((_target(name, source, control, shipped, options, remarks), control))
    return found


def _named(options: TargetOptions) -> list[tuple[str, str, str | None, Shipped | None]]:
    """(target name, checkpoint, environment id or None for the checkpoint's own, shipped settings) of every target."""
    if options.suite and (options.env or options.checkpoint or options.dataset):
        raise ConfigError(
            f"--suite {' '.join(options.suite)} names targets with their own checkpoints and environments; drop --env, "
            "--checkpoint and --dataset, or drop --suite."
        )
    if options.dataset and not (options.env or options.checkpoint):
        raise ConfigError(
            f"--dataset {options.dataset} gives the state statistics of one model; name it with --checkpoint or --env."
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
    name = Path(source).name or Path(source).resolve().name
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
    """Accepts what `gymnasium.make` does: "Hopper-v5", "namespace/Name-v0", "module_that_registers_it:Name-v0"."""
    module, _, name = env.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        known = [*SHIPPED, *gym.registry]
        close = did_you_mean(env, known).partition("Known:")[0]
        hint = "" if module else " A package that registers its own is named before a colon: package:Name-v0."
        raise UnknownNameError(
            f"Unknown environment {env!r} ({error}). {close}Use a target ({', '.join(SHIPPED)}) or any Gymnasium id."
            f"{hint}"
        ) from error


def _load(
    source: str, env_id: str | None, dataset: DatasetFacts | None, device: torch.device, given: Mapping[str, Any]
) -> tuple[ControlModel, list[str]]:
    """The model, and what was assumed about it. What it does not say itself comes from the dataset, then its name."""
    statistics = None if dataset is None else dataset.statistics
    folder = find_checkpoint(source)
    if (folder / FACTS_FILE).is_file():
        control = ControlModel.load(source, dataset_statistics=statistics, env_id=env_id, device=device, **given)
        remarks = [f"state statistics of {dataset.origin}", *dataset.remarks] if dataset else []
        return control, [*remarks, *_assumed(control), *_of_another(control, folder, given)]
    task = d4rl.task_in(hub_id(folder) or folder.resolve().name)
    if dataset is None and task is not None:
        dataset = published_facts(task)
    if dataset is None:
        control = ControlModel.load(source, env_id=env_id, device=device, **given)  # says what is missing
        return control, []
    env_id = env_id or dataset.env_id or (task.env_id if task else None)
    facts = {"reference_scores": dataset.reference_scores or _reference(env_id), **given}
    control = ControlModel.load(source, dataset_statistics=dataset.statistics, env_id=env_id, device=device, **facts)
    window = control.facts.context_steps
    remark = f"no {FACTS_FILE}: {env_id} with {dataset.origin}, a native window of {window} steps"
    return control, [remark, *dataset.remarks, *_assumed(control)]


def _assumed(control: ControlModel) -> list[str]:
    """What neither the checkpoint nor an option says, and the option that does."""
    values = {"return_scale": control.facts.return_scale, "context_steps": control.facts.context_steps}
    words = {"return_scale": "a return scale of {:g}", "context_steps": "a native window of {} steps"}
    return [f"assumed: {words[name].format(values[name])} ({option(name)} says another)" for name in control.assumed]


def _of_another(control: ControlModel, folder: Path, given: Mapping[str, Any]) -> list[str]:
    """What a checkpoint's file says against D4RL, or of another environment than the one it now acts in."""
    stored, facts = ControlFacts.from_json(folder / FACTS_FILE), control.facts
    remarks = []
    if "reference_scores" not in given:
        remarks += score_remarks(facts.reference_scores, (facts.env_id,), FACTS_FILE)
    kept = {"reference scores": facts.reference_scores, "target return": facts.target_return}
    named = [name for name, value in kept.items() if value is not None]
    if _family(stored.env_id) != _family(facts.env_id) and named:
        remarks.append(f"assumed: the {' and '.join(named)} of {stored.env_id} also in {facts.env_id}")
    return remarks


def _family(env_id: str) -> str:
    """An environment whatever its version."""
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2].rpartition(":")[2]).lower()


def _reference(env_id: str | None) -> tuple[float, float] | None:
    try:
        return None if env_id is None else d4rl.reference_scores(env_id)
    except UnknownNameError:  # returns are then shown as they are
        return None


def _target(
    name: str,
    source: str,
    control: ControlModel,
    shipped: Shipped | None,
    options: TargetOptions,
    remarks: Sequence[str],
) -> ControlTarget:
    facts = control.facts
    env_kwargs = {**facts.env_kwargs, **(shipped.env_kwargs if shipped else {})}
    environment = make_env(facts.env_id, env_kwargs)
    try:
        control.check_environment(environment)
    finally:
        environment.close()
    robot = facts.env_id.rpartition("/")[2].rpartition(":")[2].lower().partition("-")[0]
    expert = facts.reference_scores[1] if facts.reference_scores else None
    candidates = {
        "--target-return": options.target_return,
        FACTS_FILE: facts.target_return,
        f"the paper's for {robot}": TARGET_RETURNS.get(robot),
        "the expert's of the reference scores": expert,
    }
    says, target_return = next(((who, value) for who, value in candidates.items() if value is not None), ("", None))
    if says not in ("--target-return", FACTS_FILE) and target_return is not None:
        remarks = [*remarks, f"assumed: a target return of {target_return:g}, {says} (--target-return says another)"]
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
        checkpoint_sha256=_checksum(find_checkpoint(source)),
        remarks=tuple(dict.fromkeys(remarks)),
        score=options.score,
    )


def _checksum(folder: Path) -> str:
    """Of the weights; of several files, of their checksums."""
    sums = [file_sha256(path) for path in weight_files(folder)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
