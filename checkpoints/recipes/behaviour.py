"""Behaviour policies of the offline locomotion data: what they are, how they act, and which snapshots become tiers.

A policy is a whitened state through a few linear maps with tanh between them, so one class holds what ARS finds (one
map) and what PPO finds (an actor of three). A search leaves snapshots with their measured returns; tiers are chosen
afterwards, by return under the noise that the data are collected with: "expert" is the best, "medium" is near a third
of it. Policies act deterministically, so the rollouts add Gaussian action noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from evaluations.tasks.control.d4rl import Episode
from namm.errors import DataError

MEASURED_EPISODES = 16
"""Noisy episodes that decide whether a snapshot becomes a tier."""
WHITENED_LIMIT = 10.0
"""Whitened states are clipped to this, as the searches do."""


@dataclass(frozen=True)
class BehaviourPolicy:
    """action = clip(W_n tanh(... tanh(W_1 clip((state - mean) / std, -10, 10) + b_1) ...) + b_n, -1, 1)."""

    mean: Float[np.ndarray, " state"]
    """Running mean of the states seen while searching."""
    std: Float[np.ndarray, " state"]
    """Running standard deviation of the states seen while searching."""
    layers: tuple[tuple[Float[np.ndarray, "outputs inputs"], Float[np.ndarray, " outputs"]], ...]
    """Weights and bias of each linear map."""

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """Action in [-1, 1] for one state."""
        hidden = np.clip((state - self.mean) / self.std, -WHITENED_LIMIT, WHITENED_LIMIT)
        for number, (weights, bias) in enumerate(self.layers):
            hidden = weights @ (np.tanh(hidden) if number else hidden) + bias
        return np.clip(hidden, -1.0, 1.0)


@dataclass(frozen=True)
class Snapshot:
    """A policy of a search, and how good it was."""

    policy: BehaviourPolicy
    """The policy."""
    steps: int
    """Environment steps of the search until then."""
    mean_return: float
    """Mean return over a few episodes without noise."""


@dataclass(frozen=True)
class Tier:
    """A quality of data: the snapshot that makes it, measured as it is used."""

    snapshot: Snapshot
    """What acts."""
    mean_return: float
    """Mean return over `MEASURED_EPISODES` episodes with action noise."""


def save_snapshots(path: Path, snapshots: list[Snapshot]) -> None:
    """Writes snapshots to one npz file, atomically."""
    arrays: dict[str, np.ndarray] = {
        "steps": np.array([snapshot.steps for snapshot in snapshots]),
        "returns": np.array([snapshot.mean_return for snapshot in snapshots]),
        "mean": np.stack([snapshot.policy.mean for snapshot in snapshots]),
        "std": np.stack([snapshot.policy.std for snapshot in snapshots]),
    }
    for layer in range(len(snapshots[0].policy.layers)):
        for part, name in enumerate(("weights", "bias")):
            arrays[f"{name}.{layer}"] = np.stack([snapshot.policy.layers[layer][part] for snapshot in snapshots])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)
    temporary.replace(path)


def load_snapshots(path: Path) -> list[Snapshot]:
    """What `save_snapshots` wrote.

    Raises:
        DataError: There is no such file.
    """
    if not path.is_file():
        raise DataError(f"expected snapshots of a search at {path}, found none; run the recipe's first stage")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    depth = sum(name.startswith("weights.") for name in arrays)
    return [
        Snapshot(
            BehaviourPolicy(
                arrays["mean"][i],
                arrays["std"][i],
                tuple((arrays[f"weights.{k}"][i], arrays[f"bias.{k}"][i]) for k in range(depth)),
            ),
            steps=int(arrays["steps"][i]),
            mean_return=float(arrays["returns"][i]),
        )
        for i in range(len(arrays["steps"]))
    ]


def collect(
    policy: BehaviourPolicy,
    env_id: str,
    noise: float,
    seed: int,
    episodes: int | None = None,
    steps: int | None = None,
) -> list[Episode]:
    """Episodes of a policy with Gaussian action noise, clipped to [-1, 1] and recorded as executed.

    Args:
        policy: Behaviour policy.
        env_id: Gymnasium id.
        noise: Standard deviation of the noise; 0 for none.
        seed: Seed of the noise; episode k is reset with `seed + k`.
        episodes: Stop after so many episodes.
        steps: Stop after the episode that completes so many steps.
    """
    env, random = gym.make(env_id), np.random.default_rng(seed)
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


def mean_return(policy: BehaviourPolicy, env_id: str, noise: float, episodes: int, seed: int) -> float:
    """Mean undiscounted return over `episodes` resets with seeds `seed, seed + 1, ...`."""
    return float(np.mean([episode.total for episode in collect(policy, env_id, noise, seed, episodes)]))


def choose_tiers(
    snapshots: list[Snapshot], env_id: str, noise: float, medium_fraction: float = 1 / 3
) -> dict[str, Tier]:
    """The "medium" and "expert" tiers of a finished search.

    A snapshot's own return rests on few noise-free episodes, and some good ones fall once actions are noisy. So the ten
    best are measured again as they will be used, over noisy episodes; the best of them is the expert. The medium is, as
    D4RL's, a policy whose search was stopped early: of the snapshots up to the first that reaches the wanted fraction
    of the expert's return, the three nearest to it are measured, and the nearest is taken.

    Args:
        snapshots: Of one search.
        env_id: Gymnasium id.
        noise: Action noise of the rollouts.
        medium_fraction: Share of the expert's return that the medium policy should reach.

    Raises:
        DataError: No snapshot has a return above 1000.
    """
    returns = np.array([snapshot.mean_return for snapshot in snapshots])
    if not len(returns) or returns.max() < 1000:
        best = returns.max(initial=-np.inf)
        raise DataError(f"expected a snapshot above a return of 1000, the best has {best:.0f}; search longer")

    def measure(indices: np.ndarray) -> list[Tier]:
        chosen = [snapshots[i] for i in indices]
        return [Tier(one, mean_return(one.policy, env_id, noise, MEASURED_EPISODES, seed=2_000_000)) for one in chosen]

    expert = max(measure(np.argsort(-returns)[:10]), key=lambda tier: tier.mean_return)
    wanted = medium_fraction * expert.mean_return
    early = returns[: int(np.argmax(returns >= wanted)) + 1]
    near = measure(np.argsort(np.abs(early - wanted))[:3])
    medium = min(near, key=lambda tier: abs(tier.mean_return - wanted))
    print(
        f"expert: {expert.mean_return:.0f}, medium: {medium.mean_return:.0f} (noisy, {MEASURED_EPISODES} episodes)",
        flush=True,
    )
    return {"medium": medium, "expert": expert}
