"""The recipe of the locomotion data: searches record what they play, tiers are what their cards call them."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from checkpoints.recipes.behaviour import (
    BehaviourPolicy,
    Snapshot,
    choose_tiers,
    collect,
    load_snapshots,
    save_snapshots,
)
from checkpoints.recipes.behaviour_search import ARSConfig, PPOConfig, search
from checkpoints.recipes.locomotion import CELLS, DataConfig, first_steps, load_set, main, make_tiers
from evaluations.tasks.control.d4rl_files import read_hdf5
from namm.errors import ConfigError, DataError

HOPPER = "Hopper-v5"
ARS = ARSConfig(HOPPER, 600, snapshot_steps=200, snapshot_episodes=1, directions=2, top_directions=1)
PPO = PPOConfig(HOPPER, 600, snapshot_steps=200, snapshot_episodes=1, steps_per_update=128, batch=64, epochs=1)


@pytest.mark.parametrize("config", [ARS, PPO], ids=["ars", "ppo"])
def test_a_search_leaves_snapshots_that_act_and_the_episodes_it_played(config, tmp_path):
    search(config, tmp_path / "snapshots.npz", tmp_path / "search.hdf5")
    snapshots = load_snapshots(tmp_path / "snapshots.npz")
    assert [snapshot.steps for snapshot in snapshots] == sorted({snapshot.steps for snapshot in snapshots})
    assert len(snapshots) >= 2
    again = collect(snapshots[0].policy, HOPPER, 0.0, 1_000_000, episodes=1)
    assert again[0].total == pytest.approx(snapshots[0].mean_return, rel=1e-5)
    episodes = read_hdf5(tmp_path / "search.hdf5")
    assert 0 < sum(len(episode.rewards) for episode in episodes) <= 600 + 2000
    assert all(np.abs(episode.actions).max() <= 1.0 for episode in episodes)
    assert not (tmp_path / "snapshots.partial.npz").exists()


@pytest.mark.parametrize("config", [ARS, PPO], ids=["ars", "ppo"])
def test_a_search_stops_when_its_policy_is_good_enough(config, tmp_path):
    search(replace(config, enough=-1e6), tmp_path / "snapshots.npz", tmp_path / "search.hdf5")
    assert len(load_snapshots(tmp_path / "snapshots.npz")) == 1
    assert read_hdf5(tmp_path / "search.hdf5")


def test_snapshots_are_denser_early_in_a_search():
    config = replace(PPO, early_snapshot_steps=50, early_steps=120)
    assert [config.steps_to_next_snapshot(steps) for steps in (0, 119, 120)] == [50, 50, 200]


def test_recorded_episodes_are_what_the_simulator_did(tmp_path):
    """Raw states and rewards, not the whitened ones that the search sees, and actions as they were executed."""
    search(ARS, tmp_path / "snapshots.npz", tmp_path / "search.hdf5")
    episode = read_hdf5(tmp_path / "search.hdf5")[0]
    env = gym.make(HOPPER)
    env.reset(seed=0)
    base = env.unwrapped
    x = base.data.qpos[0]
    base.set_state(np.concatenate([[x], episode.observations[0][:5]]), episode.observations[0][5:])
    state, reward, *_ = env.step(episode.actions[0])
    following = episode.observations[1] if len(episode.rewards) > 1 else episode.last_observation
    np.testing.assert_allclose(state, following, atol=1e-4)
    assert reward == pytest.approx(float(episode.rewards[0]), abs=1e-4)


def test_a_search_too_short_for_a_snapshot_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="snapshot_steps"):
        search(replace(ARS, total_steps=100), tmp_path / "snapshots.npz", tmp_path / "search.hdf5")


def test_a_killed_search_is_not_taken_for_a_finished_one(tmp_path):
    (tmp_path / "snapshots.partial.npz").write_bytes(b"half")
    with pytest.raises(DataError, match="expected snapshots"):
        load_snapshots(tmp_path / "snapshots.npz")


def policy(scale: float) -> BehaviourPolicy:
    random = np.random.default_rng(0)
    layers = ((random.normal(size=(4, 11)), np.zeros(4)), (scale * random.normal(size=(3, 4)), np.ones(3)))
    return BehaviourPolicy(np.zeros(11), np.ones(11), layers)


def test_snapshots_survive_the_disk_exactly(tmp_path):
    kept = [Snapshot(policy(scale), steps, 10.0 * steps) for steps, scale in enumerate((0.1, 0.5, 2.0))]
    save_snapshots(tmp_path / "snapshots.npz", kept)
    state = np.random.default_rng(1).normal(size=11)
    for before, after in zip(kept, load_snapshots(tmp_path / "snapshots.npz"), strict=True):
        assert (after.steps, after.mean_return) == (before.steps, before.mean_return)
        np.testing.assert_array_equal(after.policy.act(state), before.policy.act(state))


def test_an_actor_is_linear_maps_with_tanh_between():
    one = policy(0.1)
    state = np.full(11, 100.0)  # clipped to 10
    (first, _), (second, bias) = one.layers
    np.testing.assert_allclose(one.act(state), np.clip(second @ np.tanh(first @ np.full(11, 10.0)) + bias, -1, 1))


def test_a_search_that_learned_nothing_gives_no_tiers():
    with pytest.raises(DataError, match="search longer"):
        choose_tiers([Snapshot(policy(0.1), 100, 50.0)], HOPPER, 0.05)


def test_replay_ends_with_the_medium_snapshot():
    episodes = collect(policy(0.1), HOPPER, 0.1, seed=0, episodes=6)
    lengths = np.cumsum([len(episode.rewards) for episode in episodes])
    assert len(first_steps(episodes, int(lengths[3]))) == 4
    assert len(first_steps(episodes, int(lengths[3]) - 1)) == 3


def test_medium_expert_is_both_tiers_joined(tmp_path, monkeypatch):
    """Real tiers of a search too short to learn; only the bar of a useful return is lowered."""
    search(ARS, tmp_path / "snapshots.npz", tmp_path / "search.hdf5")
    kept = load_snapshots(tmp_path / "snapshots.npz")
    save_snapshots(tmp_path / "snapshots.npz", [replace(one, mean_return=one.mean_return + 2000) for one in kept])
    make_tiers("hopper", tmp_path, ARS, DataConfig(steps_per_tier=150))
    medium, expert = read_hdf5(tmp_path / "medium.hdf5"), read_hdf5(tmp_path / "expert.hdf5")
    joined = load_set(tmp_path, "medium-expert")
    assert [episode.total for episode in joined] == [episode.total for episode in medium + expert]
    assert sum(len(episode.rewards) for episode in medium) >= 150


def test_an_unknown_cell_is_an_error_that_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["hopper-large"])
    assert stopped.value.code != 0
    message = capsys.readouterr().err
    assert all(cell in message for cell in CELLS)
