"""Runs an agent in many copies of an environment at once, one copy per reset seed.

The copies are stepped in this process, their states batched into one call of the agent a step; an episode that ends
leaves the batch, so all live episodes have the same length. The reset seed fixes an episode for every agent, which
makes comparisons between agents paired.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from namm.errors import ConfigError, DataError, UnknownNameError, did_you_mean


@runtime_checkable
class Agent(Protocol):
    """Acts for a batch of episodes that started together."""

    def reset(self, batch: int) -> None:
        """Forgets everything; `batch` episodes start."""

    def act(
        self,
        states: Float[Tensor, "batch state"],
        returns_to_go: Float[Tensor, " batch"],
        timesteps: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch action"]:
        """Actions for one step of every live episode; states and returns-to-go in the environment's units."""

    def drop(self, indices_to_keep: Int[Tensor, " kept"]) -> None:
        """Keeps only these rows of the batch."""


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode."""

    seed: int
    """Seed of its reset."""
    total: float
    """Undiscounted return."""
    length: int
    """Steps."""
    success: bool | None
    """`info["success"]` of the last step; None where the environment does not say."""
    cue_steps: tuple[int, ...] = ()
    """Steps whose state an agent has to remember, as the reset's `info["cue_steps"]` (or `["cue_step"]`) tells."""


@dataclass(frozen=True)
class Rollout:
    """All episodes of a rollout, in the order of their seeds."""

    episodes: tuple[EpisodeResult, ...]
    """One entry a seed."""
    steps: int
    """Environment steps, summed over episodes."""
    agent_seconds: float
    """Wall time inside the agent."""
    env_seconds: float
    """Wall time inside the environments, frames included."""
    frames: UInt8[np.ndarray, "frames height width 3"] | None
    """Pictures of episode 0, where asked for."""


StepObserver = Callable[[int, list[int]], None]
"""Called after each step's actions with the step and the live episodes (indices into `seeds`), in batch order."""

StartObserver = Callable[[list[dict[str, Any]]], None]
"""Called once, before the first step, with what each episode's reset told (its `info`), in the order of the seeds."""


def make_env(env_id: str, env_kwargs: dict[str, Any] | None = None, render: bool = False) -> Any:
    """A Gymnasium environment.

    Raises:
        UnknownNameError: The id is not registered.
        ConfigError: The environment does not accept its arguments, or cannot draw pictures here.
    """
    if render and "DISPLAY" not in os.environ and sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is first imported; without a display there is no X
    import gymnasium as gym

    try:
        return gym.make(env_id, **(env_kwargs or {}), **({"render_mode": "rgb_array"} if render else {}))
    except (gym.error.UnregisteredEnv, gym.error.VersionNotFound, gym.error.DeprecatedEnv) as error:
        raise UnknownNameError(f"unknown environment {env_id!r}. {did_you_mean(env_id, _same_kind(env_id))}") from error
    except TypeError as error:
        raise ConfigError(f"expected arguments that {env_id} knows, found {env_kwargs}: {error}") from error


def _same_kind(env_id: str) -> list[str]:
    """Registered ids worth naming in an error message: continuous control, memory tasks, and whatever looks alike."""
    import difflib

    import gymnasium as gym

    usual = (
        "Hopper-v",
        "HalfCheetah-v",
        "Walker2d-v",
        "Ant-v",
        "ContinuousTMaze-v",
        "RememberedReacher-v",
        "PopgymRecall-v",
    )
    known = {name for name in gym.registry if name.startswith(usual)}
    return sorted(known | set(difflib.get_close_matches(env_id, list(gym.registry), n=3)))


def rollout(
    agent: Agent,
    env_id: str,
    seeds: Sequence[int],
    target_return: float,
    env_kwargs: dict[str, Any] | None = None,
    on_step: StepObserver | None = None,
    record: bool = False,
    record_every: int = 1,
    max_steps: int | None = None,
    on_start: StartObserver | None = None,
) -> Rollout:
    """Plays one episode per seed with the agent.

    Args:
        agent: Any object with `reset`, `act` and `drop`.
        env_id: Gymnasium id.
        seeds: Reset seeds, one episode each.
        target_return: Return asked for at the first step, in the environment's units; each reward is taken off it.
        env_kwargs: Keyword arguments of the environment.
        on_step: Observer, for instance of a memory's slots.
        record: Draw pictures of episode 0.
        record_every: Steps between two pictures.
        max_steps: Cuts every episode after so many steps; None leaves that to the environment.
        on_start: Observer of the resets.

    Raises:
        UnknownNameError: The environment is not registered.
        ConfigError: No seed is given, or the environment does not fit.
        DataError: The agent's action is not finite.
    """
    if not seeds:
        raise ConfigError("expected at least one reset seed, found none; pass seeds such as [0, 1, 2]")
    envs = [make_env(env_id, env_kwargs, render=record and index == 0) for index in range(len(seeds))]
    try:
        return _play(
            agent, envs, list(seeds), target_return, on_step, on_start, record_every if record else 0, max_steps
        )
    finally:
        for env in envs:
            env.close()


def _play(
    agent: Agent,
    envs: list[Any],
    seeds: list[int],
    target_return: float,
    on_step: StepObserver | None,
    on_start: StartObserver | None,
    record_every: int,
    max_steps: int | None,
) -> Rollout:
    begun = [env.reset(seed=int(seed)) for env, seed in zip(envs, seeds, strict=True)]
    states, infos = [state for state, _ in begun], [info for _, info in begun]
    if on_start is not None:
        on_start(infos)
    low, high = envs[0].action_space.low, envs[0].action_space.high
    totals, finished = np.zeros(len(envs)), [None] * len(envs)
    live, frames, step = list(range(len(envs))), [], 0
    agent_seconds = env_seconds = 0.0
    steps = 0
    agent.reset(len(envs))
    while live:
        started = time.perf_counter()
        if record_every and 0 in live and step % record_every == 0:
            frames.append(envs[0].render())
        env_seconds += time.perf_counter() - started

        started = time.perf_counter()
        batch = torch.from_numpy(np.stack([states[i] for i in live]).astype(np.float32))
        to_go = torch.from_numpy((target_return - totals[live]).astype(np.float32))
        actions = agent.act(batch, to_go, torch.full((len(live),), step)).cpu().numpy()
        agent_seconds += time.perf_counter() - started
        if not np.isfinite(actions).all():
            raise DataError(f"expected finite actions, found NaN or infinity at step {step}; check the checkpoint")
        if on_step is not None:
            on_step(step, list(live))

        started = time.perf_counter()
        remaining = []
        for row, index in enumerate(live):
            action = np.clip(actions[row], low, high).astype(envs[index].action_space.dtype)
            states[index], reward, terminated, truncated, info = envs[index].step(action)
            totals[index] += float(reward)
            steps += 1
            if terminated or truncated or step + 1 == max_steps:
                success = bool(info["success"]) if "success" in info else None
                cues = _cue_steps(infos[index])
                finished[index] = EpisodeResult(seeds[index], float(totals[index]), step + 1, success, cues)
            else:
                remaining.append(row)
        env_seconds += time.perf_counter() - started

        if remaining and len(remaining) < len(live):
            started = time.perf_counter()
            agent.drop(torch.tensor(remaining))
            agent_seconds += time.perf_counter() - started
        live = [live[row] for row in remaining]
        step += 1
    pictures = np.stack(frames) if frames else None
    return Rollout(tuple(finished), steps, agent_seconds, env_seconds, pictures)


def _cue_steps(info: dict[str, Any]) -> tuple[int, ...]:
    """Where the environment says what has to be remembered: a list of steps, or one."""
    if "cue_steps" in info:
        return tuple(int(step) for step in info["cue_steps"])
    return (int(info["cue_step"]),) if "cue_step" in info else ()
