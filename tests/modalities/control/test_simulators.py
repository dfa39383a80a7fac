"""Simulators in processes of their own: the same episodes, faster; a worker that fails is an error, never a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest

from modalities import attach
from modalities.control.agents import ControlModel, IncrementalAgent, WindowAgent
from modalities.control.rollout import Rollout, SimulatorPool, lane_sizes, rollout
from namm.errors import ConfigError, SimulatorError, UnknownNameError
from namm.policies import make_policy
from tests.modalities.control.fragile_env import FragileEnv
from tests.modalities.control.test_agents import ConstantAgent, control  # noqa: F401  (a fixture)

EPISODES = 17
"""One more than two smallest lanes hold, so that lanes and workers get uneven shares."""


@pytest.fixture(scope="module")
def fragile():
    gym.register("Fragile-v0", entry_point="tests.modalities.control.fragile_env:FragileEnv")
    yield "Fragile-v0"
    gym.registry.pop("Fragile-v0")


@pytest.fixture(scope="module")
def pool():
    with SimulatorPool(2) as started:
        yield started


def workers_of(process: int) -> set[int]:
    """Simulator processes that a process has started and that still run."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent, state = int((entry / "stat").read_text().split()[3]), (entry / "stat").read_text().split()[2]
            except OSError:
                continue
            if parent == process and state != "Z" and any(word.endswith(b"control/worker.py") for word in words):
                found.add(int(entry.name))
    return found


def play(control: ControlModel, kind: str, **how) -> tuple[Rollout, list, object]:  # noqa: F811
    """Episodes of different lengths on Hopper, and what an observer saw."""
    seen: list = []
    policy = make_policy("random", interval=16, budget=12, protected_last=3)
    with attach(control.model.encoder, policy) as memory:
        agent = WindowAgent(control, context_steps=5) if kind == "window" else IncrementalAgent(control, memory=memory)
        observe = (lambda step, live: seen.append((step, live))) if kind == "window" else None
        if observe is None:

            def observe(step, live):
                positions = [memory.kept_positions(layer).tolist() for layer in range(3)]
                seen.append((step, live, memory.slots().tolist(), positions, memory.cache_bytes()))

        played = rollout(
            agent,
            "Hopper-v5",
            range(EPISODES),
            3000.0,
            # thrown further than usual, an untrained agent falls at different times
            env_kwargs={"reset_noise_scale": 0.2, "healthy_z_range": (0.6, 9.0), "healthy_angle_range": (-0.5, 0.5)},
            on_step=observe,
            max_steps=50,
            **how,
        )
        return played, seen, memory.report()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "window"])
def test_workers_and_overlap_change_nothing(control, pool, kind):  # noqa: F811
    """Every return, every slot kept at every step, and the report are those of stepping in this process."""
    alone, seen, report = play(control, kind)
    assert len({episode.length for episode in alone.episodes}) > 3
    with SimulatorPool(3) as three:
        for how in ({"simulators": pool}, {"simulators": pool, "overlap": False}, {"simulators": three}):
            played, also_seen, also_report = play(control, kind, **how)
            assert played.episodes == alone.episodes
            assert also_seen == seen
            assert also_report == report
    if kind == "memory":
        assert all(len(live) == len(slots) for _, live, slots, *_ in seen)


def test_a_memory_in_two_lanes_keeps_what_one_batch_keeps(control):  # noqa: F811
    """Identities go on from lane to lane, or the random policy would draw the first lane's numbers again."""
    _, seen, report = play(control, "memory")
    _, whole, whole_report = play(control, "memory", lanes=1)
    assert [step[1:4] for step in seen[:20]] == [step[1:4] for step in whole[:20]]
    assert report.updates == whole_report.updates


def test_lanes_depend_on_the_batch_and_what_is_asked_alone(fragile):
    assert [lane_sizes(episodes) for episodes in (1, 15, 16, 17, 64)] == [[1], [15], [8, 8], [9, 8], [32, 32]]
    assert lane_sizes(64, lanes=1) == [64]
    with pytest.raises(ConfigError, match="1 or 2 lanes, found 3"):
        rollout(ConstantAgent(0.1), fragile, [5], 0.0, lanes=3)


def test_what_episodes_tell_comes_through(fragile, pool):
    """Resets, cues and success, in the order of the seeds, though two workers hold every other episode."""
    told: list = []
    seeds = [5, 2, 9, 4, 7]
    played = rollout(ConstantAgent(0.1), fragile, seeds, 0.0, simulators=pool, on_start=told.extend)
    assert [info["cue_steps"] for info in told] == [[1, seed] for seed in seeds]
    assert [(e.seed, e.length, e.total, e.success, e.cue_steps) for e in played.episodes] == [
        (seed, seed, float(seed), seed % 2 == 0, (1, seed)) for seed in seeds
    ]


@pytest.mark.parametrize("simulators", [0, 2])
def test_an_environment_that_raises_is_named(fragile, simulators):
    with pytest.raises(SimulatorError, match=r"Fragile-v0.*seed 13: ValueError: the joint broke"):
        rollout(ConstantAgent(0.1), fragile, [20, 20, 13, 20], 0.0, simulators=simulators)


def test_a_killed_worker_is_an_error_and_the_pool_goes_on(fragile):
    with SimulatorPool(2) as pool:
        before = workers_of(os.getpid())
        with pytest.raises(SimulatorError, match=r"simulator process \d+ .*SIGKILL.*fewer"):
            rollout(ConstantAgent(0.1), fragile, [20, 20, 66, 20], 0.0, simulators=pool)
        assert workers_of(os.getpid()) <= before, "the worker that was not killed must have ended too"
        assert rollout(ConstantAgent(0.1), fragile, [3, 4], 0.0, simulators=pool).steps == 7
        mine = workers_of(os.getpid()) - before
        assert len(mine) == 2
    assert not workers_of(os.getpid()) & mine


def test_an_environment_that_workers_cannot_make_is_refused_or_stepped_here(pool):
    class Homely(FragileEnv):
        pass

    gym.register("Homely-v0", entry_point=Homely)
    try:
        with pytest.raises(ConfigError, match=r"Homely-v0.*module:Class.*0 simulators"):
            rollout(ConstantAgent(0.1), "Homely-v0", [3, 4], 0.0, simulators=pool)
        assert rollout(ConstantAgent(0.1), "Homely-v0", [3] * 64, 0.0, simulators=SimulatorPool()).steps == 3 * 64
    finally:
        gym.registry.pop("Homely-v0")


def test_mistakes_are_found_before_any_worker_starts():
    with pytest.raises(UnknownNameError, match="Did you mean 'Hopper-v"):
        rollout(ConstantAgent(0.0), "Hoper-v5", [0], 1.0, simulators=1)
    with pytest.raises(ConfigError, match="0 or more"):
        rollout(ConstantAgent(0.0), "Hopper-v5", [0], 1.0, simulators=-1)


ENDLESS = """
import signal, sys, torch
from modalities.control.rollout import rollout
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
class Agent:
    def reset(self, batch): pass
    def drop(self, kept): pass
    def act(self, states, returns_to_go, timesteps):
        if int(timesteps[0]) == 5:
            print("playing", flush=True)
        return torch.zeros(len(states), 1)
try:
    rollout(Agent(), "Pendulum-v1", range(4), 0.0, {"max_episode_steps": 10**9}, simulators=2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_rollout(how):
    """Neither after Ctrl-C nor after a kill that leaves no time to tidy up."""
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "playing\n"
            workers = workers_of(process.pid)
            assert len(workers) == 2
            process.send_signal(how)
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == ((3, "interrupted\n") if how == signal.SIGINT else (-9, ""))
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker goes on without its rollout"
        time.sleep(0.02)
