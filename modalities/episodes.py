"""What a rollout is made of: agents that act for a batch of episodes, and what comes of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor


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


@runtime_checkable
class SplittableAgent(Agent, Protocol):
    """An agent whose batch can be acted for in parts that take turns."""

    def split(self, sizes: Sequence[int]) -> Sequence[Agent]:
        """Forgets everything; agents for consecutive parts of a new batch, or one for all of it.

        Where each has a true `acts_apart`, they share nothing that changes and may act in a thread each.
        """


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
    seconds: float
    """Wall time from the resets to the end."""
    agent_seconds: float
    """Wall time inside the agent, summed over lanes."""
    env_seconds: float
    """Wall time inside the environments, or waiting for them where they are stepped meanwhile, summed over lanes;
    frames included."""
    frames: UInt8[np.ndarray, "frames height width 3"] | None
    """Pictures of episode 0, where asked for."""


StepObserver = Callable[[int, list[int]], None]
"""Called after each step's actions with the step and the live episodes (indices into `seeds`), in batch order."""

StartObserver = Callable[[list[dict[str, Any]]], None]
"""Called once, before the first step, with what each episode's reset told (its `info`), in the order of the seeds."""
