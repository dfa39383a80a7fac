"""Runs an agent in many copies of an environment at once, one copy per reset seed.

The states of live episodes are batched into one call of the agent a step, or two (`modalities/lanes.py`); an episode
that ends leaves the batch, so all live episodes have the same length. The reset seed fixes an episode for every agent:
comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from modalities.episodes import Agent, EpisodeResult, Rollout, SplittableAgent, StartObserver, StepObserver
from modalities.lanes import Play, lane_sizes
from modalities.simulator_pool import SimulatorPool
from modalities.simulators import LocalSimulators, Simulators, make_env
from namm.errors import ConfigError

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
        overlap: Let them step one lane while the agent acts for another, or for both at once where every lane has
            processes of its own. Neither this nor their number changes anything but the time that it takes.

    Raises:
        UnknownNameError: The environment is not registered.
        ConfigError: No seed is given, or the environment does not fit.
        DataError: The agent's action is not finite.
        SimulatorError: An environment raises, or a process that steps some of them ends.
    """
    if not seeds:
        raise ConfigError("expected at least one reset seed, found none; pass seeds such as [0, 1, 2]")
    with ExitStack() as stack:
        camera = LocalSimulators(env_id, env_kwargs, seeds, render=True) if record else None
        if camera is not None:
            envs: Simulators = camera
        elif isinstance(simulators, SimulatorPool):
            envs = simulators.simulators(env_id, env_kwargs, seeds, lane_sizes(len(seeds)))
        else:
            pool = stack.enter_context(SimulatorPool(simulators))
            envs = pool.simulators(env_id, env_kwargs, seeds, lane_sizes(len(seeds)))
        stack.callback(envs.close)
        play = Play(agent, envs, target_return, on_step, max_steps, overlap, camera, record_every)
        return play.run(on_start)
