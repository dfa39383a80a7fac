"""Gymnasium's robots are stepped many at once, and nothing but the time that it takes tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv

from modalities.control.simulators import make_env
from modalities.control.worker import Environments, EpisodeFailedError, StockRobots

EPISODES = range(5)


def both(env_id: str, env_kwargs: Mapping[str, Any] = {}) -> tuple[Environments, Environments]:
    """The same episodes, stepped at once and by Gymnasium."""
    known, plain = (Environments(lambda _: make_env(env_id, dict(env_kwargs)), EPISODES) for _ in range(2))
    plain.robots = None
    return known, plain


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("robot", "env_kwargs"),
    [
        ("Hopper", {}),
        ("Hopper", {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False}),
        ("Hopper", {"healthy_state_range": (-2.0, 2.0), "healthy_reward": 0.3}),
        ("HalfCheetah", {}),
        ("HalfCheetah", {"ctrl_cost_weight": 0.7, "frame_skip": 5, "max_episode_steps": 90}),
        ("Walker2d", {}),
        ("Walker2d", {"terminate_when_unhealthy": False, "forward_reward_weight": 0.4}),
    ],
)
def test_they_do_bit_for_bit_what_gymnasium_does(robot, env_kwargs, version):
    if "frame_skip" in env_kwargs and version == 4:
        env_kwargs = {name: value for name, value in env_kwargs.items() if name != "frame_skip"}
    known, plain = both(f"{robot}-v{version}", env_kwargs)
    assert known.robots is not None
    for _ in range(2):  # a second episode begins anew
        for ours, theirs in zip(known.reset(EPISODES), plain.reset(EPISODES), strict=True):
            assert np.array_equal(ours, theirs)
        draw, live, steps = np.random.default_rng(0), list(EPISODES), 0
        while live and steps < 120:
            actions = draw.uniform(-1.0, 1.0, (len(live), known.open[0].action_space.shape[0])).astype(np.float32)
            ours, theirs = known.step(live, actions), plain.step(live, actions)
            for mine, its in zip(ours, theirs, strict=True):
                assert np.asarray(mine).dtype == np.asarray(its).dtype
                assert np.array_equal(mine, its)
            live, steps = [episode for episode, over in zip(live, ours[2], strict=True) if not over], steps + 1
        assert steps == 90 or "max_episode_steps" not in env_kwargs
    known.close()
    plain.close()


class HeavyHopper(HopperEnv):
    """Somebody's own robot."""


def test_what_is_not_exactly_gymnasiums_is_stepped_as_it_is():
    stock = make_env("Hopper-v5")
    assert StockRobots.know([stock])
    assert not StockRobots.know([stock, gym.wrappers.ClipAction(make_env("Hopper-v5"))])
    assert not StockRobots.know([HeavyHopper()])
    assert not StockRobots.know([make_env("Ant-v5")])
    patched = make_env("Hopper-v5")
    patched.unwrapped.step = patched.unwrapped.step
    assert not StockRobots.know([patched])


def test_an_action_of_the_wrong_width_names_the_episode():
    known, _ = both("Hopper-v5")
    known.reset(EPISODES)
    for width in (1, 2):
        with pytest.raises(EpisodeFailedError, match="expected \\(3,\\)") as failure:
            known.step([3], np.zeros((1, width), dtype=np.float32))
        assert failure.value.episode == 3
