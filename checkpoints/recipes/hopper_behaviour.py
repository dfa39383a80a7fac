"""Behaviour policies for the offline Hopper data: ARS (augmented random search) on Hopper-v5, kept at two levels.

ARS finds a linear policy near D4RL's expert return in minutes on one core, where SAC needs hours. What is kept of a run
is a list of snapshots, each 33 weights and the observation statistics they were found with, so a tier ("medium" is
about a third of the expert) is chosen afterwards, by measured return, and a behaviour policy is three small arrays.
Policies are deterministic, so the rollouts add action noise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from evaluations.tasks.d4rl import Episode
from namm.errors import DataError

ENV_ID = "Hopper-v5"


@dataclass(frozen=True)
class LinearPolicy:
    """action = clip(weights @ clip((state - mean) / std, -10, 10), -1, 1), as ARS V2 trains it."""

    weights: Float[np.ndarray, "action state"]
    """Linear map from the whitened state to the action."""
    mean: Float[np.ndarray, " state"]
    """Running mean of the states seen while training."""
    std: Float[np.ndarray, " state"]
    """Running standard deviation of the states seen while training."""

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """Action in [-1, 1] for one state."""
        whitened = np.clip((state - self.mean) / self.std, -10.0, 10.0)
        return np.clip(self.weights @ whitened, -1.0, 1.0)


@dataclass(frozen=True)
class ARSConfig:
    """Constants of the search; those of the ARS paper for Hopper (V2: N = 8, b = 4, nu = 0.025, alpha = 0.01)."""

    total_steps: int = 1_850_000
    """Environment steps of the search."""
    directions: int = 8
    """Perturbation directions an update (each tried with both signs)."""
    top_directions: int = 4
    """Directions that enter the update."""
    learning_rate: float = 0.01
    """Step size."""
    exploration_std: float = 0.025
    """Standard deviation of the perturbations."""
    alive_bonus_offset: float = -1.0
    """Added to every step's reward while searching: cancels Hopper's reward for merely standing."""
    snapshot_steps: int = 40_000
    """Environment steps between two snapshots."""
    snapshot_episodes: int = 3
    """Evaluation episodes of a snapshot."""
    enough: float = 3300.0
    """The search stops early when a snapshot reaches this mean return."""
    seed: int = 0
    """Seed of the search and of its environment."""


def collect(
    policy: LinearPolicy, noise: float, seed: int, episodes: int | None = None, steps: int | None = None
) -> list[Episode]:
    """Episodes of a policy with Gaussian action noise, clipped to [-1, 1] and recorded as executed.

    Args:
        policy: Behaviour policy.
        noise: Standard deviation of the noise; 0 for none.
        seed: Seed of the noise; episode k is reset with `seed + k`.
        episodes: Stop after so many episodes.
        steps: Stop after the episode that completes so many steps.
    """
    env, random = gym.make(ENV_ID), np.random.default_rng(seed)
    collected, total = [], 0
    while (episodes is None or len(collected) < episodes) and (steps is None or total < steps):
        state, _ = env.reset(seed=seed + len(collected))
        states, actions, rewards, done, terminated = [], [], [], False, False
        while not done:
            action = np.clip(policy.act(state) + noise * random.normal(size=env.action_space.shape), -1.0, 1.0)
            states.append(state)
            actions.append(action)
            state, reward, terminated, truncated, _ = env.step(action)
            rewards.append(reward)
            done = terminated or truncated
        arrays = (np.asarray(values, np.float32) for values in (states, actions, rewards))
        collected.append(Episode(*arrays, state.astype(np.float32), bool(terminated)))
        total += len(rewards)
    env.close()
    return collected


def mean_return(policy: LinearPolicy, noise: float, episodes: int, seed: int) -> float:
    """Mean undiscounted return over `episodes` resets with seeds `seed, seed + 1, ...`."""
    return float(np.mean([episode.total for episode in collect(policy, noise, seed, episodes)]))


def train_ars(path: Path, config: ARSConfig) -> None:
    """Runs the search and writes its snapshots to `path` (npz: weights, mean, std, returns, steps), after each one.

    Needs the extra `recipes` (sb3-contrib). A file that is already there is overwritten.
    """
    from sb3_contrib import ARS
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(make_vec_env(ENV_ID, n_envs=1, seed=config.seed), norm_obs=True, norm_reward=False)
    kept: dict[str, list] = {"weights": [], "mean": [], "std": [], "returns": [], "steps": []}
    started = time.monotonic()

    class Snapshots(BaseCallback):
        """Measures and stores the policy between two updates; ends the search when it is good enough."""

        def __init__(self) -> None:
            super().__init__()
            self.enough = False
            self.next_at = config.snapshot_steps

        def _on_rollout_start(self) -> None:
            if self.num_timesteps < self.next_at:
                return
            self.next_at = self.num_timesteps + config.snapshot_steps
            statistics = env.obs_rms
            weights = self.model.weights.numpy().reshape(env.action_space.shape[0], -1)
            policy = LinearPolicy(weights.copy(), statistics.mean.copy(), np.sqrt(statistics.var + env.epsilon))
            value = mean_return(policy, 0.0, config.snapshot_episodes, seed=1_000_000)
            row = (policy.weights, policy.mean, policy.std, value, self.num_timesteps)
            for items, item in zip(kept.values(), row, strict=True):
                items.append(item)
            temporary = path.with_suffix(".tmp.npz")
            np.savez(temporary, **{name: np.asarray(items) for name, items in kept.items()})
            temporary.replace(path)
            seconds = time.monotonic() - started
            print(f"ars {self.num_timesteps:>9,} steps {seconds:6.0f} s return {value:7.1f}", flush=True)
            self.enough = value >= config.enough

        def _on_step(self) -> bool:
            return True

    snapshots = Snapshots()
    path.parent.mkdir(parents=True, exist_ok=True)
    search = ARS(
        "LinearPolicy",
        env,
        n_delta=config.directions,
        n_top=config.top_directions,
        learning_rate=config.learning_rate,
        delta_std=config.exploration_std,
        alive_bonus_offset=config.alive_bonus_offset,
        seed=config.seed,
        device="cpu",
    )
    steps = config.snapshot_steps
    while search.num_timesteps < config.total_steps and not snapshots.enough:
        search.learn(steps, callback=snapshots, log_interval=None, reset_num_timesteps=search.num_timesteps == 0)
    env.close()


def choose_tiers(path: Path, noise: float, medium_fraction: float = 1 / 3) -> dict[str, LinearPolicy]:
    """The "medium" and "expert" behaviour policies of a finished search.

    A snapshot's own return rests on few noise-free episodes, and some good ones fall once actions are noisy. So the ten
    best are measured again as they will be used, over eight noisy episodes; the best of them is the expert, and of the
    five snapshots nearest to a fraction of its return, the one nearest when measured so is the medium.

    Args:
        path: What `train_ars` wrote.
        noise: Action noise of the rollouts.
        medium_fraction: Share of the expert's return that the medium policy should reach.

    Raises:
        DataError: There is no such file, or it holds no snapshot above a return of 1000.
    """
    if not path.is_file():
        raise DataError(f"expected snapshots of a search at {path}, found none; run the recipe's first stage")
    with np.load(path, allow_pickle=False) as file:
        snapshots = {name: file[name] for name in file.files}
    returns = snapshots["returns"]
    if returns.max() < 1000:
        raise DataError(f"expected a snapshot above a return of 1000, the best has {returns.max():.0f}; search longer")
    policies = [LinearPolicy(*(snapshots[name][i] for name in ("weights", "mean", "std"))) for i in range(len(returns))]

    def measure(indices: np.ndarray) -> dict[int, float]:
        return {int(i): mean_return(policies[i], noise, episodes=8, seed=2_000_000) for i in indices}

    best = measure(np.argsort(-returns)[:10])
    expert = max(best, key=best.__getitem__)
    wanted = medium_fraction * best[expert]
    near = measure(np.argsort(np.abs(returns - wanted))[:5])
    medium = min(near, key=lambda index: abs(near[index] - wanted))
    print(f"expert: {best[expert]:.0f}, medium: {near[medium]:.0f} (noisy, 8 episodes)", flush=True)
    return {"medium": policies[medium], "expert": policies[expert]}
