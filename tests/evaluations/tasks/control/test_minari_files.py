"""Minari datasets: what Minari itself wrote is read, what is written here is whole or absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from evaluations.tasks.control import minari_files
from evaluations.tasks.control.d4rl import reference_scores
from evaluations.tasks.control.minari_files import open_minari, read_minari, write_minari
from namm.errors import DataError
from tests.evaluations.tasks.control.test_d4rl import EPISODES, assert_same

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")  # a made-up set has no author


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """A place for datasets, without any network."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "minari"


def buffer(number: int, steps: int, ends: str, observations, width: int = 3, **changes) -> EpisodeBuffer:
    random = np.random.default_rng(number)
    last = np.zeros(steps, bool)
    last[-1] = True
    none = np.zeros(steps, bool)
    fields = {
        "observations": observations,
        "actions": random.uniform(-1, 1, size=(steps, width)).astype(np.float32),
        "rewards": random.normal(size=steps),
        "terminations": last if "terminated" in ends else none,
        "truncations": last if "truncated" in ends else none,
        "infos": {"x_position": np.zeros(steps + 1)},
    }
    return EpisodeBuffer(id=number, **{**fields, **changes})


def hopper_states(number: int, steps: int) -> np.ndarray:
    return np.random.default_rng(100 + number).normal(size=(steps + 1, 11))


def make_hopper(dataset_id: str = "mujoco/hopper/medium-v0") -> None:
    """A set of Minari's own MuJoCo generation, in float64, whose last episode is unfinished."""
    kinds = enumerate([(6, "terminated"), (4, "truncated"), (3, "terminated truncated"), (2, "")])
    buffers = [buffer(number, steps, ends, hopper_states(number, steps)) for number, (steps, ends) in kinds]
    minari.create_dataset_from_buffers(dataset_id, buffers, env="Hopper-v5", description="made up", author="nobody")


def test_a_set_that_minari_wrote_is_read():
    make_hopper()
    dataset = open_minari("mujoco/hopper/medium-v0", dtype=None)
    shapes = [(len(e.rewards), e.terminated, e.timed_out) for e in dataset.episodes]
    assert shapes == [(6, True, False), (4, False, True), (3, True, True)]
    assert dataset.left_out == 2
    assert dataset.env_id == "Hopper-v5"
    assert dataset.reference_scores == reference_scores("hopper")
    states = hopper_states(1, 4)
    assert np.array_equal(dataset.episodes[1].observations, states[:-1])
    assert np.array_equal(dataset.episodes[1].last_observation, states[-1])
    assert dataset.episodes[1].observations.dtype == np.float64
    assert read_minari("mujoco/hopper/medium-v0")[1].observations.dtype == np.float32


def test_the_folder_of_a_dataset_is_as_good_as_its_id(root):
    make_hopper()
    expected = read_minari("mujoco/hopper/medium-v0")
    assert_same(read_minari(str(root / "mujoco/hopper/medium-v0")), expected)
    assert_same(read_minari(str(root / "mujoco/hopper/medium-v0/data")), expected)
    with pytest.raises(DataError, match=r"no data/metadata\.json"):
        read_minari(str(root / "mujoco"))


def test_dictionaries_become_vectors_as_gymnasium_flattens_them():
    """A goal-conditioned set, as Minari's point mazes are: an environment in FlattenObservation fits the same model."""
    box = {"observation": 4, "achieved_goal": 2, "desired_goal": 2}
    space = gym.spaces.Dict({key: gym.spaces.Box(-np.inf, np.inf, (width,)) for key, width in box.items()})
    random = np.random.default_rng(0)
    observations = {key: random.normal(size=(6, width)) for key, width in box.items()}
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    made = minari.create_dataset_from_buffers(
        "D4RL/pointmaze/umaze-v2",
        [buffer(0, 5, "truncated", observations, width=2)],
        observation_space=space,
        action_space=action_space,
    )
    made.storage.update_metadata({"ref_min_score": 23.85, "ref_max_score": 161.86})
    dataset = open_minari("D4RL/pointmaze/umaze-v2")
    for step in range(5):
        expected = gym.spaces.flatten(space, {key: values[step] for key, values in observations.items()})
        np.testing.assert_allclose(dataset.episodes[0].observations[step], expected, rtol=1e-6)
    assert "achieved_goal, desired_goal, observation" in dataset.remarks[0]
    assert (dataset.reference_scores, dataset.env_id) == ((23.85, 161.86), None)


def test_actions_that_are_no_vectors_are_refused():
    discrete = np.zeros(3, np.int64)
    minari.create_dataset_from_buffers(
        "minigrid/rooms-v0",
        [buffer(0, 3, "terminated", np.zeros((4, 5), np.float32), actions=discrete)],
        observation_space=gym.spaces.Box(0, 1, (5,)),
        action_space=gym.spaces.Discrete(4),
    )
    with pytest.raises(DataError, match=r"vectors in actions of episode 0 of minigrid/rooms-v0, found Discrete"):
        open_minari("minigrid/rooms-v0")


def test_nan_and_damage_are_refused(root):
    states = hopper_states(0, 6)
    states[2, 1] = np.nan
    minari.create_dataset_from_buffers("a-set/with-nan-v0", [buffer(0, 6, "terminated", states)], env="Hopper-v5")
    with pytest.raises(DataError, match="NaN"):
        open_minari("a-set/with-nan-v0")
    make_hopper()
    data = root / "mujoco/hopper/medium-v0/data/main_data.hdf5"
    data.write_bytes(data.read_bytes()[:1500])
    with pytest.raises(DataError, match="mujoco/hopper/medium-v0"):
        open_minari("mujoco/hopper/medium-v0")
    (data.parent / "metadata.json").unlink()  # an interrupted download
    with pytest.raises(DataError, match="mujoco/hopper/medium-v0"):
        open_minari("mujoco/hopper/medium-v0")


def test_a_set_of_the_server_is_fetched_once(root, monkeypatch):
    """The server's part is played by a set that Minari wrote elsewhere; the network is what the test run lacks."""
    make_hopper()
    expected = read_minari("mujoco/hopper/medium-v0")
    shutil.move(root / "mujoco", root.parent / "server")
    fetched = []

    def fetch(dataset_id: str) -> None:
        fetched.append(dataset_id)
        shutil.copytree(root.parent / "server", root / "mujoco")

    monkeypatch.setattr(minari, "download_dataset", fetch)
    with pytest.raises(DataError, match="minari download mujoco/hopper/medium-v0"):
        read_minari("mujoco/hopper/medium-v0")  # HF_HUB_OFFLINE is set
    assert not fetched
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert_same(read_minari("mujoco/hopper/medium-v0"), expected)
    assert_same(read_minari("mujoco/hopper/medium-v0"), expected)
    assert fetched == ["mujoco/hopper/medium-v0"]


def test_what_the_server_says_is_passed_on(monkeypatch):
    def fetch(dataset_id: str) -> None:
        raise ConnectionError("Name or service not known")

    make_hopper()
    monkeypatch.setattr(minari, "download_dataset", fetch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(DataError, match=r"Did you mean 'mujoco/hopper/medium-v0'.*Name or service not known"):
        read_minari("mujoco/hoper/medium-v0")


def test_round_trip_with_reference_scores(root):
    name, reference = "namm/hopper/made-up-v0", reference_scores("hopper")
    write_minari(name, EPISODES, "Hopper-v5", reference, "made up")
    assert_same(read_minari(name), EPISODES)
    dataset = minari.load_dataset(name)
    assert float(minari.get_normalized_score(dataset, np.array(3234.3))) == pytest.approx(1.0)
    assert dataset.recover_environment().spec.id == "Hopper-v5"
    with pytest.raises(DataError, match="found one"):
        write_minari(name, EPISODES, "Hopper-v5", reference, "again")
    assert [path.name for path in root.iterdir()] == ["namm"]  # nothing unfinished is left beside it


def test_an_interrupted_conversion_leaves_nothing_and_a_replaced_set_is_whole(root, monkeypatch):
    name, reference = "namm/hopper/made-up-v0", reference_scores("hopper")
    with monkeypatch.context() as patch:
        patch.setattr(minari_files, "_buffer", lambda number, episode: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_minari(name, EPISODES, "Hopper-v5", reference, "made up")
    assert not list(root.iterdir())
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)
    write_minari(name, EPISODES, "Hopper-v5", reference, "made up")
    write_minari(name, EPISODES[:1], None, (0.0, 4.0), "shorter", overwrite=True)
    dataset = open_minari(name)
    assert_same(dataset.episodes, EPISODES[:1])
    assert (dataset.env_id, dataset.reference_scores) == (None, (0.0, 4.0))
    assert [path.name for path in root.iterdir()] == ["namm"]


@pytest.mark.parametrize(
    ("dataset_id", "env_id", "said"),
    [("no id", "Hopper-v5", "namespace/name-v0"), ("namm/made-up-v0", "HalfCheetah-v5", "HalfCheetah-v5")],
)
def test_what_does_not_fit_is_not_written(root, dataset_id, env_id, said):
    with pytest.raises(DataError, match=said):
        write_minari(dataset_id, EPISODES, env_id, None, "made up")
    assert not root.exists() or not list(root.iterdir())
