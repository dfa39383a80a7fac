"""The T-maze: a valid environment that can be solved only by remembering one step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from evaluations.tasks.control.tmaze import ENV_ID, ScriptedExpert, register
from modalities.control.rollout import rollout
from namm.errors import ConfigError

CUE, DISTRACTOR = 4, 5


@pytest.fixture(autouse=True)
def _registered():
    register()


def walk(corridor: int, seed: int, cue: int | None = None, noise: float = 0.0, forget: bool = False):
    """One episode of the expert: states, actions and the last info."""
    env = gym.make(ENV_ID, corridor_steps=corridor, disable_env_checker=True)
    state, info = env.reset(seed=seed, options=None if cue is None else {"cue": cue})
    expert, random, done = ScriptedExpert(), np.random.default_rng(seed), False
    states, actions = [state], []
    while not done:
        seen = state.copy()
        seen[CUE] = 0.0 if forget else seen[CUE]
        action = np.clip(expert.act(seen) + noise * random.normal(size=2), -1, 1).astype(np.float32)
        state, reward, terminated, truncated, info = env.step(action)
        states.append(state)
        actions.append(action)
        done = terminated or truncated
    assert reward == float(info["success"])
    return np.stack(states), np.stack(actions), info


def test_gymnasiums_own_checker_accepts_it():
    check_env(gym.make(ENV_ID, corridor_steps=60, render_mode="rgb_array").unwrapped)


def test_registering_twice_is_harmless():
    register()
    assert gym.spec(ENV_ID).id == ENV_ID


@pytest.mark.parametrize("corridor", [50, 150, 300])
def test_the_expert_always_succeeds_and_needs_the_length_of_the_corridor(corridor):
    for seed in range(8):
        states, _, info = walk(corridor, seed, noise=0.15)
        assert info["success"]
        assert corridor <= len(states) - 1 <= corridor + 35


def test_forgetting_the_cue_halves_the_success():
    successes = [walk(50, seed, forget=True)[2]["success"] for seed in range(40)]
    assert 0.25 < np.mean(successes) < 0.75


def test_the_cue_leaves_no_trace_until_the_junction():
    """Same seed, other cue: up to the junction all actions, and all states but the cue channel, agree bit for bit."""
    for seed in range(5):
        one, one_actions, _ = walk(80, seed, cue=1, noise=0.15)
        other, other_actions, _ = walk(80, seed, cue=-1, noise=0.15)
        junction = int(np.flatnonzero(one[:, 0] <= 0)[0])
        rest = [0, 1, 2, 3, DISTRACTOR]
        assert np.array_equal(one[: junction + 1, rest], other[: junction + 1, rest])
        assert np.array_equal(one_actions[:junction], other_actions[:junction])
        assert not np.array_equal(one_actions[junction], other_actions[junction])


def test_the_cue_is_seen_once_at_random_times_among_distractors():
    """A cue at a fixed time, or among the first or newest tokens, would let a recency or sink rule win for free."""
    times, cues = set(), set()
    for seed in range(40):
        states, _, info = walk(100, seed)
        (shown,) = np.flatnonzero(states[:, CUE])
        pulses = np.flatnonzero(states[:100, DISTRACTOR])
        assert 10 <= shown <= 40
        assert shown == info["cue_step"]
        assert states[shown, CUE] == info["cue"]
        assert len(pulses) == round(100 / 12)
        assert shown not in pulses
        times.add(int(shown))
        cues.add(info["cue"])
    assert len(times) > 15
    assert cues == {-1, 1}


def test_the_same_seed_gives_the_same_maze():
    first, second = walk(60, 3)[0], walk(60, 3)[0]
    assert np.array_equal(first, second)
    assert not np.array_equal(first[:40], walk(60, 4)[0][:40])


@pytest.mark.parametrize("arguments", [{"corridor_steps": 40}, {"corridor_steps": 301}, {"cue_range": (0.5, 0.2)}])
def test_impossible_mazes_are_refused(arguments):
    with pytest.raises(ConfigError, match="expected"):
        gym.make(ENV_ID, **arguments)


def test_an_idle_agent_is_cut_off_without_success_and_filmed():
    """Also the rollout's pictures: one frame each ten steps of episode 0."""
    import torch

    class Idle:
        def reset(self, batch): ...

        def act(self, states, returns_to_go, timesteps):
            return torch.zeros(len(states), 2)

        def drop(self, indices_to_keep): ...

    played = rollout(Idle(), ENV_ID, [0, 1], 1.0, {"corridor_steps": 50}, record=True, record_every=10)
    assert [(episode.length, episode.success, episode.total) for episode in played.episodes] == [(90, False, 0.0)] * 2
    assert played.frames.shape == (9, 128, 640, 3)
    assert played.frames.std() > 10
