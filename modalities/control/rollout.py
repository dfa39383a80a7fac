"""Runs an agent in many copies of an environment at once, one copy per reset seed.

The states of live episodes are batched into one call of the agent a step; an episode that ends leaves the batch, so all
live episodes have the same length. A large batch is acted for in two halves, its lanes: with simulators in processes of
their own, one half is stepped while the agent acts for the other. How a batch is divided depends on its size and on
what is asked for, so the number of processes changes no result. The reset seed fixes an episode for every agent:
comparisons are paired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from modalities.control.pool import SimulatorPool
from modalities.control.simulators import LocalSimulators, Simulators, Stepped, make_env
from modalities.control.worker import said_success
from namm.errors import ConfigError, DataError, SimulatorError

__all__ = [
    "Agent",
    "EpisodeResult",
    "Rollout",
    "SimulatorPool",
    "SplittableAgent",
    "StartObserver",
    "StepObserver",
    "make_env",
    "rollout",
]

SMALLEST_LANE = 8
"""Episodes that a lane has at least."""


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
        ...

    def drop(self, indices_to_keep: Int[Tensor, " kept"]) -> None:
        """Keeps only these rows of the batch."""


@runtime_checkable
class SplittableAgent(Agent, Protocol):
    """An agent whose batch can be acted for in parts that take turns."""

    def split(self, sizes: Sequence[int]) -> Sequence[Agent]:
        """Forgets everything; agents for consecutive parts of a new batch, or one for all of it."""
        ...


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
    """Whether any step's `info["success"]` (or `["is_success"]`) was true; None where no step says."""
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
    """Wall time inside the environments, or waiting for them where they are stepped meanwhile; frames included."""
    frames: UInt8[np.ndarray, "frames height width 3"] | None
    """Pictures of episode 0, where asked for."""


StepObserver = Callable[[int, list[int]], None]
"""Called after each step's actions with the step and the live episodes (indices into `seeds`), in batch order."""

StartObserver = Callable[[list[dict[str, Any]]], None]
"""Called once, before the first step, with what each episode's reset told (its `info`), in the order of the seeds."""


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
    simulators: SimulatorPool | int = 0,
    overlap: bool = True,
    lanes: int = 2,
) -> Rollout:
    """Plays one episode per seed with the agent.

    Args:
        agent: Any object with `reset`, `act` and `drop`; one that also has `split` can overlap with its simulators.
        env_id: Gymnasium id.
        seeds: Reset seeds, one episode each.
        target_return: Return asked for at the first step, in the environment's units; each reward is taken off it.
        env_kwargs: Keyword arguments of the environment.
        on_step: Observer, for instance of a memory's slots.
        record: Draw pictures of episode 0; the environments are then stepped in this process.
        record_every: Steps between two pictures.
        max_steps: Cuts every episode after so many steps; None leaves that to the environment.
        on_start: Observer of the resets.
        simulators: Processes that step the environments, or a pool to borrow them from; 0 for none.
        overlap: Let them step one lane while the agent acts for another. Neither this nor their number changes
            anything but the time that it takes.
        lanes: Parts that a large batch is divided into, 1 or 2. With nothing to overlap with, one is faster: fewer and
            larger calls. Results differ by how a batch's size rounds.

    Raises:
        UnknownNameError: The environment is not registered.
        ConfigError: No seed is given, the environment does not fit, or a batch cannot have so many lanes.
        DataError: The agent's action is not finite.
        SimulatorError: An environment raises, or a process that steps some of them ends.
    """
    if not seeds:
        raise ConfigError("expected at least one reset seed, found none; pass seeds such as [0, 1, 2]")
    check_lanes(lanes)
    with ExitStack() as stack:
        camera = LocalSimulators(env_id, env_kwargs, seeds, render=True) if record else None
        if camera is not None:
            envs: Simulators = camera
        elif isinstance(simulators, SimulatorPool):
            envs = simulators.simulators(env_id, env_kwargs, seeds)
        else:
            envs = stack.enter_context(SimulatorPool(simulators)).simulators(env_id, env_kwargs, seeds)
        stack.callback(envs.close)
        sizes = lane_sizes(len(seeds), lanes)
        play = _Play(agent, envs, target_return, on_step, max_steps, overlap, camera, record_every, sizes)
        return play.run(on_start)


def check_lanes(lanes: int) -> None:
    """Raises ConfigError unless a batch can be divided into so many lanes."""
    if lanes not in (1, 2):
        raise ConfigError(f"expected 1 or 2 lanes, found {lanes}; 2 overlap with simulator processes, 1 is one batch")


def lane_sizes(episodes: int, lanes: int = 2) -> list[int]:
    """How a batch is divided: into two halves, or not at all where they would be small."""
    if lanes == 1 or episodes < 2 * SMALLEST_LANE:
        return [episodes]
    return [episodes - episodes // 2, episodes // 2]


class _Lane:
    """Episodes whose actions are chosen in one call of an agent."""

    def __init__(self, agent: Agent, live: list[int]) -> None:
        self.agent, self.live = agent, live
        self.stepped: Stepped | None = None


class _Play:
    """A rollout under way. All lanes are at the same step whenever the observer looks."""

    def __init__(
        self,
        agent: Agent,
        envs: Simulators,
        target_return: float,
        on_step: StepObserver | None,
        max_steps: int | None,
        overlap: bool,
        camera: LocalSimulators | None,
        record_every: int,
        sizes: Sequence[int],
    ) -> None:
        self.agent, self.envs, self.target_return, self.on_step = agent, envs, target_return, on_step
        self.max_steps, self.overlap = max_steps, overlap
        self.camera, self.record_every, self.sizes = camera, record_every, sizes
        self.totals = np.zeros(len(envs.seeds))
        self.successes: list[bool | None] = [None] * len(envs.seeds)
        self.finished: list[Any] = [None] * len(envs.seeds)
        self.frames: list[Any] = []
        self.agent_seconds = self.env_seconds = 0.0

    def run(self, on_start: StartObserver | None) -> Rollout:
        """Plays every episode to its end."""
        with self._simulating():
            self.states, self.infos = self.envs.reset()
        self._check_finite(list(range(len(self.infos))), self.states, "state", 0)
        # an environment that speaks of success when it is reset speaks of every episode
        self.successes = [None if said_success(info) is None else False for info in self.infos]
        if on_start is not None:
            on_start(self.infos)
        lanes, step = self._lanes(), 0
        while True:
            for lane in lanes:
                if step:
                    self._receive(lane, step)
                if lane.live:
                    self._act(lane, step)
            if not any(lane.live for lane in lanes):
                break
            self._forget([lane for lane in lanes if not lane.live])
            lanes = [lane for lane in lanes if lane.live]
            if self.on_step is not None:
                self.on_step(step, [episode for lane in lanes for episode in lane.live])
            step += 1
        steps = sum(episode.length for episode in self.finished)
        pictures = np.stack(self.frames) if self.frames else None
        return Rollout(tuple(self.finished), steps, self.agent_seconds, self.env_seconds, pictures)

    def _lanes(self) -> list[_Lane]:
        """The batch, in as many lanes as it and the agent allow."""
        episodes = len(self.envs.seeds)
        sizes = self.sizes
        with self._acting():
            if len(sizes) > 1 and isinstance(self.agent, SplittableAgent):
                agents = self.agent.split(sizes)
                if len(agents) > 1:
                    ends = np.cumsum(sizes).tolist()
                    spans = zip(agents, ends, sizes, strict=True)
                    return [_Lane(agent, list(range(end - size, end))) for agent, end, size in spans]
            else:
                self.agent.reset(episodes)
        return [_Lane(self.agent, list(range(episodes)))]

    def _act(self, lane: _Lane, step: int) -> None:
        """Chooses a lane's actions and sends them to its simulators."""
        if self.camera is not None and 0 in lane.live and step % self.record_every == 0:
            with self._simulating():
                self.frames.append(self.camera.picture())
        with self._acting():
            to_go = torch.from_numpy((self.target_return - self.totals[lane.live]).astype(np.float32))
            states = torch.from_numpy(self.states[lane.live])
            chosen = lane.agent.act(states, to_go, torch.full((len(lane.live),), step)).cpu().numpy()
        if not np.isfinite(chosen).all():
            raise DataError(f"expected finite actions, found NaN or infinity at step {step}; check the checkpoint")
        space = self.envs.actions
        with self._simulating():
            self.envs.send(lane.live, np.clip(chosen, space.low, space.high).astype(space.dtype))
            lane.stepped = None if self.overlap else self.envs.receive()

    def _receive(self, lane: _Lane, step: int) -> None:
        """Takes in what the lane's last actions did; episodes that ended leave it."""
        with self._simulating():
            stepped = self.envs.receive() if lane.stepped is None else lane.stepped
        self._check_finite(lane.live, stepped.rewards[:, None], "reward", step)
        self._check_finite(lane.live, np.where(stepped.ended[:, None], 0.0, stepped.states), "state", step)
        self.states[lane.live] = stepped.states
        self.totals[lane.live] += stepped.rewards
        for index, said in zip(lane.live, stepped.successes, strict=True):
            if said is not None:  # latched: a goal that was reached stays reached
                self.successes[index] = bool(self.successes[index]) or said
        over = stepped.ended | (step == self.max_steps)
        for row in np.flatnonzero(over).tolist():
            index = lane.live[row]
            total, cues = float(self.totals[index]), _cue_steps(self.infos[index])
            self.finished[index] = EpisodeResult(self.envs.seeds[index], total, step, self.successes[index], cues)
        remaining = np.flatnonzero(~over)
        if 0 < len(remaining) < len(lane.live):
            with self._acting():
                lane.agent.drop(torch.from_numpy(remaining))
        lane.live = [lane.live[row] for row in remaining.tolist()]

    def _check_finite(
        self, episodes: Sequence[int], values: Float[np.ndarray, "episodes n"], what: str, step: int
    ) -> None:
        """Raises SimulatorError where an environment gives NaN or infinity, which would go on as a number."""
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise SimulatorError(
                f"Expected finite numbers of {self.envs.env_id}, found NaN or infinity in the {what} after step {step} "
                f"of the episode with reset seed {self.envs.seeds[episodes[wrong[0]]]}. Mend the environment or leave "
                "that seed out."
            )

    def _forget(self, lanes: Sequence[_Lane]) -> None:
        """Empties lanes that are over while others go on, so that an observer sees live episodes only."""
        with self._acting():
            for lane in lanes:
                lane.agent.drop(torch.empty(0, dtype=torch.long))

    @contextmanager
    def _acting(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.agent_seconds += time.perf_counter() - started

    @contextmanager
    def _simulating(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.env_seconds += time.perf_counter() - started


def _cue_steps(info: dict[str, Any]) -> tuple[int, ...]:
    """Where the environment says what has to be remembered: a list of steps, or one."""
    if "cue_steps" in info:
        return tuple(int(step) for step in info["cue_steps"])
    return (int(info["cue_step"]),) if "cue_step" in info else ()
