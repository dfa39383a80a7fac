"""A batch of episodes under way, divided into lanes whose actions are chosen together.

A large batch is two halves. Where each has simulator processes of its own, each has a thread, too, that acts for it and
waits for them: then two cores always have a lane to act for or to step. Else lanes take turns, and the simulators step
one while the agent acts for the other. How a batch is divided depends on its size alone, so none of this changes a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from modalities.episodes import Agent, EpisodeResult, Rollout, SplittableAgent, StartObserver, StepObserver
from modalities.simulators import LocalSimulators, Simulators, Stepped
from namm.errors import DataError

SMALLEST_LANE = 8
"""Episodes that a lane has at least."""


def lane_sizes(episodes: int) -> list[int]:
    """How a batch is divided: into two halves, or not at all where they would be small."""
    if episodes < 2 * SMALLEST_LANE:
        return [episodes]
    return [episodes - episodes // 2, episodes // 2]


class Lane:
    """Episodes whose actions are chosen in one call of an agent."""

    def __init__(self, agent: Agent, live: list[int]) -> None:
        self.agent, self.live = agent, live
        self.sent: Any = None
        self.stepped: Stepped | None = None
        self.steps = 0
        self.agent_seconds = self.env_seconds = 0.0


class Play:
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
    ) -> None:
        self.agent, self.envs, self.target_return, self.on_step = agent, envs, target_return, on_step
        self.max_steps, self.overlap = max_steps, overlap
        self.camera, self.record_every = camera, record_every
        self.totals = np.zeros(len(envs.seeds))
        self.finished: list[Any] = [None] * len(envs.seeds)
        self.frames: list[Any] = []
        self.abandoned = False

    def run(self, on_start: StartObserver | None) -> Rollout:
        """Plays every episode to its end."""
        started = time.perf_counter()
        self.states, self.infos = self.envs.reset()
        if on_start is not None:
            on_start(self.infos)
        lanes = self._lanes()
        apart = self.envs.apart and all(getattr(lane.agent, "acts_apart", False) for lane in lanes)
        if self.overlap and apart and len(lanes) > 1:
            self._play_apart(lanes)
        else:
            self._play_together(lanes, self._take_turns)
        return Rollout(
            tuple(self.finished),
            sum(episode.length for episode in self.finished),
            time.perf_counter() - started,
            sum(lane.agent_seconds for lane in lanes),
            sum(lane.env_seconds for lane in lanes),
            np.stack(self.frames) if self.frames else None,
        )

    def _lanes(self) -> list[Lane]:
        """The batch, in as many lanes as it and the agent allow."""
        episodes = len(self.envs.seeds)
        sizes = lane_sizes(episodes)
        if len(sizes) > 1 and isinstance(self.agent, SplittableAgent):
            agents = self.agent.split(sizes)
            if len(agents) > 1:
                ends = np.cumsum(sizes).tolist()
                spans = zip(agents, ends, sizes, strict=True)
                return [Lane(agent, list(range(end - size, end))) for agent, end, size in spans]
        else:
            self.agent.reset(episodes)
        return [Lane(self.agent, list(range(episodes)))]

    def _play_apart(self, lanes: list[Lane]) -> None:
        """A thread for each lane, so that both of two cores always have a lane to act for or to step."""
        with ThreadPoolExecutor(len(lanes)) as threads:
            try:
                if self.on_step is None:
                    _finish([threads.submit(self._play_alone, lane) for lane in lanes])
                    last = max(lane.steps for lane in lanes)
                    self._forget([lane for lane in lanes if lane.steps < last])
                else:
                    self._play_together(
                        lanes, lambda live, step: _finish([threads.submit(self._turn, lane, step) for lane in live])
                    )
            except BaseException:
                self.abandoned = True
                self.envs.abandon()
                raise

    def _play_alone(self, lane: Lane) -> None:
        while lane.live and not self.abandoned:
            self._turn(lane, lane.steps)

    def _play_together(self, lanes: list[Lane], turns: Callable[[list[Lane], int], None]) -> None:
        """All lanes step by step, observed after each."""
        step = 0
        while True:
            turns(lanes, step)
            if not any(lane.live for lane in lanes):
                break
            self._forget([lane for lane in lanes if not lane.live])
            lanes = [lane for lane in lanes if lane.live]
            if self.on_step is not None:
                self.on_step(step, [episode for lane in lanes for episode in lane.live])
            step += 1

    def _take_turns(self, lanes: list[Lane], step: int) -> None:
        for lane in lanes:
            self._turn(lane, step)

    def _turn(self, lane: Lane, step: int) -> None:
        """What the lane's last actions did, and its next ones."""
        started = time.perf_counter()
        if step:
            stepped = self.envs.receive(lane.sent) if lane.stepped is None else lane.stepped
            lane.env_seconds += time.perf_counter() - started
            self._take_in(lane, stepped, step)
        if lane.live:
            self._act(lane, step)
        lane.steps = step + 1

    def _act(self, lane: Lane, step: int) -> None:
        """Chooses a lane's actions and sends them to its simulators."""
        started = time.perf_counter()
        if self.camera is not None and 0 in lane.live and step % self.record_every == 0:
            self.frames.append(self.camera.picture())
        drawn = time.perf_counter()
        to_go = torch.from_numpy((self.target_return - self.totals[lane.live]).astype(np.float32))
        states = torch.from_numpy(self.states[lane.live])
        chosen = lane.agent.act(states, to_go, torch.full((len(lane.live),), step)).cpu().numpy()
        acted = time.perf_counter()
        if not np.isfinite(chosen).all():
            raise DataError(f"expected finite actions, found NaN or infinity at step {step}; check the checkpoint")
        space = self.envs.actions
        lane.sent = self.envs.send(lane.live, np.clip(chosen, space.low, space.high).astype(space.dtype))
        lane.stepped = None if self.overlap else self.envs.receive(lane.sent)
        lane.agent_seconds += acted - drawn
        lane.env_seconds += time.perf_counter() - acted + drawn - started

    def _take_in(self, lane: Lane, stepped: Stepped, step: int) -> None:
        """Episodes that ended leave the lane."""
        started = time.perf_counter()
        self.states[lane.live] = stepped.states
        self.totals[lane.live] += stepped.rewards
        over = stepped.ended | (step == self.max_steps)
        for row in np.flatnonzero(over).tolist():
            index = lane.live[row]
            total, cues = float(self.totals[index]), _cue_steps(self.infos[index])
            self.finished[index] = EpisodeResult(self.envs.seeds[index], total, step, stepped.successes[row], cues)
        remaining = np.flatnonzero(~over)
        if 0 < len(remaining) < len(lane.live):
            lane.agent.drop(torch.from_numpy(remaining))
        lane.live = [lane.live[row] for row in remaining.tolist()]
        lane.agent_seconds += time.perf_counter() - started

    def _forget(self, lanes: Sequence[Lane]) -> None:
        """Empties lanes that are over while others go on, so that an observer sees live episodes only."""
        for lane in lanes:
            lane.agent.drop(torch.empty(0, dtype=torch.long))


def _finish(turns: Sequence[Future[None]]) -> None:
    """Waits for all of them, or until one fails."""
    wait(turns, return_when=FIRST_EXCEPTION)
    for turn in turns:
        if turn.done():
            turn.result()


def _cue_steps(info: dict[str, Any]) -> tuple[int, ...]:
    """Where the environment says what has to be remembered: a list of steps, or one."""
    if "cue_steps" in info:
        return tuple(int(step) for step in info["cue_steps"])
    return (int(info["cue_step"]),) if "cue_step" in info else ()
