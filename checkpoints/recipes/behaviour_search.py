"""Finds behaviour policies for the offline locomotion data with kept libraries: ARS (sb3-contrib) or PPO (SB3).

ARS finds a linear policy near D4RL's expert return on Hopper in minutes on one core, where SAC needs hours; on Walker2d
it is slow, so PPO, a small actor, searches there. Both leave snapshots (policies with measured returns) and every
episode of the search as it was played, of which the "medium-replay" sets are cut. Needs the extra `recipes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from checkpoints.recipes.behaviour import BehaviourPolicy, Snapshot, mean_return, save_snapshots
from evaluations.tasks.control.d4rl import Episode
from evaluations.tasks.control.d4rl_files import write_hdf5
from namm.errors import ConfigError

SNAPSHOT_RESETS = 1_000_000
"""Reset seed of the first episode that measures a snapshot."""


@dataclass(frozen=True)
class SearchConfig:
    """What both searches share."""

    env_id: str
    """Gymnasium id."""
    total_steps: int
    """Environment steps of the search."""
    snapshot_steps: int = 40_000
    """Environment steps between two snapshots."""
    early_snapshot_steps: int | None = None
    """The same in the early part of the search, where returns rise steeply; None: no difference."""
    early_steps: int = 0
    """Length of the early part."""
    snapshot_episodes: int = 3
    """Evaluation episodes of a snapshot, without noise."""
    enough: float = float("inf")
    """The search stops early when a snapshot reaches this mean return."""
    seed: int = 0
    """Seed of the search and of its environment."""

    def steps_to_next_snapshot(self, steps: int) -> int:
        """Environment steps between a snapshot taken after so many steps and the next one."""
        is_early = self.early_snapshot_steps is not None and steps < self.early_steps
        return self.early_snapshot_steps if is_early else self.snapshot_steps


@dataclass(frozen=True)
class ARSConfig(SearchConfig):
    """Augmented random search, V2; constants of the ARS paper's table for the robot (Mania et al. 2018)."""

    directions: int = 8
    """Perturbation directions an update (each tried with both signs)."""
    top_directions: int = 4
    """Directions that enter the update."""
    step_size: float = 0.01
    """Step size."""
    exploration_std: float = 0.025
    """Standard deviation of the perturbations."""
    alive_bonus_offset: float = 0.0
    """Added to every step's reward while searching: -1 cancels the reward for merely standing."""

    def algorithm(self, env: Any) -> Any:
        """The library's search on a vectorised environment."""
        from sb3_contrib import ARS

        return ARS(
            "LinearPolicy",
            env,
            n_delta=self.directions,
            n_top=self.top_directions,
            learning_rate=self.step_size,
            delta_std=self.exploration_std,
            alive_bonus_offset=self.alive_bonus_offset,
            seed=self.seed,
            device="cpu",
        )

    @staticmethod
    def layers(model: Any) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The policy's linear map."""
        actions = model.action_space.shape[0]
        return ((model.weights.numpy().reshape(actions, -1).copy(), np.zeros(actions)),)


@dataclass(frozen=True)
class PPOConfig(SearchConfig):
    """Proximal policy optimisation with the library's defaults for continuous control."""

    learning_rate: float = 3e-4
    """Adam's learning rate at the start; it falls linearly to 0."""
    steps_per_update: int = 2048
    """Environment steps between two updates."""
    batch: int = 128
    """Transitions a gradient step."""
    epochs: int = 10
    """Passes over the steps of an update."""

    def algorithm(self, env: Any) -> Any:
        """The library's search on a vectorised environment."""
        from stable_baselines3 import PPO

        return PPO(
            "MlpPolicy",
            env,
            learning_rate=lambda left: self.learning_rate * left,
            n_steps=self.steps_per_update,
            batch_size=self.batch,
            n_epochs=self.epochs,
            seed=self.seed,
            device="cpu",
        )

    @staticmethod
    def layers(model: Any) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The actor's linear maps."""
        maps = [part for part in model.policy.mlp_extractor.policy_net if isinstance(part, torch.nn.Linear)]
        maps.append(model.policy.action_net)
        return tuple(tuple(value.detach().double().numpy().copy() for value in (one.weight, one.bias)) for one in maps)


class Recorder(gym.Wrapper):
    """Keeps every complete episode of the search, with raw states and rewards and the actions as executed."""

    def __init__(self, env: gym.Env, keep: Callable[[Episode], None]) -> None:
        super().__init__(env)
        self.keep = keep

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """See gymnasium."""
        state, info = self.env.reset(**options)
        self.state, self.steps = state, ([], [], [])
        return state, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See gymnasium."""
        executed = np.clip(action, self.action_space.low, self.action_space.high)
        state, reward, terminated, truncated, info = self.env.step(action)
        for values, value in zip(self.steps, (self.state, executed, reward), strict=True):
            values.append(np.asarray(value, np.float32))
        if terminated or truncated:
            arrays = (np.stack(values) for values in self.steps)
            self.keep(Episode(*arrays, np.asarray(state, np.float32), bool(terminated)))
        self.state = state
        return state, reward, terminated, truncated, info


class _EnoughError(Exception):
    """Ends a search from inside: the library's ARS does not heed what callbacks return."""


def search(config: ARSConfig | PPOConfig, snapshots_file: Path, episodes_file: Path) -> None:
    """Runs a search and writes its snapshots and its episodes; the snapshots appear last, when all is complete.

    Args:
        config: Which search.
        snapshots_file: npz of `save_snapshots`. While the search runs, `*.partial.npz` beside it holds what there is.
        episodes_file: HDF5 in D4RL's schema: every complete episode of the search, in order.

    Raises:
        ConfigError: The search would end before its first snapshot.
    """
    _check_long_enough(config)
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    episodes: list[Episode] = []
    simulators = make_vec_env(
        config.env_id,
        n_envs=1,
        seed=config.seed,
        wrapper_class=Recorder,
        wrapper_kwargs={"keep": episodes.append},
    )
    env = VecNormalize(simulators, norm_obs=True, norm_reward=isinstance(config, PPOConfig))
    snapshots: list[Snapshot] = []
    partial = snapshots_file.with_suffix(".partial.npz")
    started = time.monotonic()

    class Snapshots(BaseCallback):
        """Measures and stores the policy between two updates; ends the search when it is good enough."""

        next_at = config.steps_to_next_snapshot(0)

        def _on_rollout_start(self) -> None:
            if self.num_timesteps < self.next_at:
                return
            self.next_at = self.num_timesteps + config.steps_to_next_snapshot(self.num_timesteps)
            seen = env.obs_rms
            layers = config.layers(self.model)
            policy = BehaviourPolicy(seen.mean.copy(), np.sqrt(seen.var + env.epsilon), layers)
            value = mean_return(policy, config.env_id, 0.0, config.snapshot_episodes, SNAPSHOT_RESETS)
            snapshots.append(Snapshot(policy, self.num_timesteps, value))
            save_snapshots(partial, snapshots)
            seconds = time.monotonic() - started
            print(f"{config.env_id} {self.num_timesteps:>9,} steps {seconds:6.0f} s return {value:7.1f}", flush=True)
            if value >= config.enough:
                raise _EnoughError

        def _on_step(self) -> bool:
            return True

    with suppress(_EnoughError):
        config.algorithm(env).learn(config.total_steps, callback=Snapshots(), log_interval=None)
    env.close()
    write_hdf5(episodes_file, episodes)
    partial.replace(snapshots_file)


def _check_long_enough(config: ARSConfig | PPOConfig) -> None:
    if config.total_steps <= config.snapshot_steps:
        raise ConfigError(
            f"expected a search longer than its snapshot_steps ({config.snapshot_steps:,}), found "
            f"{config.total_steps:,} steps; search longer or take snapshots more often"
        )
