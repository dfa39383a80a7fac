"""D4RL's file schema, Minari, reference scores: what is written is read back, what is damaged is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from evaluations.tasks.d4rl import (
    Episode,
    normalised_score,
    published_statistics,
    reference_scores,
    state_statistics,
)
from evaluations.tasks.d4rl_files import read_hdf5, write_hdf5
from evaluations.tasks.minari_files import read_minari, write_minari
from namm.errors import DataError, UnknownNameError


def made_up(length: int, terminated: bool, seed: int) -> Episode:
    random = np.random.default_rng(seed)
    states = random.normal(size=(length + 1, 11)).astype(np.float32)
    actions = random.uniform(-1, 1, size=(length, 3)).astype(np.float32)
    return Episode(states[:-1], actions, random.normal(size=length).astype(np.float32), states[-1], terminated)


EPISODES = [made_up(7, True, 0), made_up(4, False, 1), made_up(1, True, 2)]


def assert_same(found: list[Episode], expected: list[Episode]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("observations", "actions", "rewards", "last_observation"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert one.terminated == other.terminated


def write_raw(path, **changes) -> None:
    """A file of 10 steps in D4RL's schema, with arrays replaced, or left out where None."""
    arrays = {
        "observations": np.arange(20.0).reshape(10, 2),
        "actions": np.zeros((10, 1)),
        "rewards": np.ones(10),
        "terminals": np.zeros(10, bool),
        "timeouts": np.zeros(10, bool),
        "infos/qpos": np.zeros((10, 3)),
        "metadata/algorithm": np.bytes_("SAC"),
    }
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, **changes}.items():
            if values is not None:
                file[name] = values


def flags(*steps: int, length: int = 10) -> np.ndarray:
    values = np.zeros(length, bool)
    values[list(steps)] = True
    return values


def test_hdf5_round_trip(tmp_path):
    write_hdf5(tmp_path / "made" / "up.hdf5", EPISODES)
    assert_same(read_hdf5(tmp_path / "made" / "up.hdf5"), EPISODES)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["up.hdf5"]


def test_episodes_end_at_terminals_or_timeouts_and_the_unfinished_one_is_dropped(tmp_path):
    """Ignoring timeouts would give one episode of 8 steps; keeping the tail would give a third."""
    write_raw(tmp_path / "a.hdf5", terminals=flags(7), timeouts=flags(2))
    episodes = read_hdf5(tmp_path / "a.hdf5")
    assert [(len(e.rewards), e.terminated, e.total) for e in episodes] == [(3, False, 3.0), (5, True, 5.0)]
    assert episodes[1].observations[0].tolist() == [6.0, 7.0]
    assert episodes[1].returns_to_go().tolist() == [5.0, 4.0, 3.0, 2.0, 1.0]


def test_files_without_timeouts_mean_a_thousand_steps(tmp_path):
    steps = 2300
    write_raw(
        tmp_path / "a.hdf5",
        observations=np.zeros((steps, 2)),
        actions=np.zeros((steps, 1)),
        rewards=np.ones((steps, 1)),  # some writers keep a trailing axis
        terminals=flags(1200, length=steps),
        timeouts=None,
    )
    episodes = read_hdf5(tmp_path / "a.hdf5")
    assert [(len(e.rewards), e.terminated) for e in episodes] == [(1000, False), (201, True), (1000, False)]


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.hdf5"
    write_hdf5(path, [made_up(500, True, 0)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.hdf5.*damaged"):
        read_hdf5(path)
    path.write_bytes(b"not hdf5 at all")
    with pytest.raises(DataError, match="damaged"):
        read_hdf5(path)
    with pytest.raises(DataError, match="found none"):
        read_hdf5(tmp_path / "missing.hdf5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.full(10, np.nan)}, "finite numbers in rewards"),
        ({"observations": np.full((10, 2), np.inf)}, "finite numbers in observations"),
        ({"actions": np.zeros((9, 1))}, "actions with 2 dimension"),
        ({"observations": np.zeros((10, 2, 2))}, "observations with 2 dimension"),
        ({"observations": np.float64(3.0)}, "observations with 2 dimension"),
        ({"terminals": np.zeros(11, bool)}, "terminals with 1 dimension"),
        ({"rewards": None}, "missing: rewards"),
        ({"next_observations": np.zeros((10, 3))}, "next_observations shaped"),
        ({"actions": np.array([[b"left"]] * 10)}, "text"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, changes, message):
    write_raw(tmp_path / "a.hdf5", **changes)
    with pytest.raises(DataError, match=message):
        read_hdf5(tmp_path / "a.hdf5")


def test_a_group_in_place_of_an_array_is_refused(tmp_path):
    write_raw(tmp_path / "a.hdf5", rewards=None, **{"rewards/inner": np.zeros(3)})
    with pytest.raises(DataError, match="missing: rewards"):
        read_hdf5(tmp_path / "a.hdf5")


def test_minari_round_trip_with_reference_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    import minari

    name, reference = "namm/hopper/made-up-v0", reference_scores("hopper")
    write_minari(name, EPISODES, "Hopper-v5", reference, "made up")
    assert_same(read_minari(name), EPISODES)
    dataset = minari.load_dataset(name)
    assert float(minari.get_normalized_score(dataset, np.array(3234.3))) == pytest.approx(1.0)
    assert dataset.recover_environment().spec.id == "Hopper-v5"
    with pytest.raises(DataError, match="found one"):
        write_minari(name, EPISODES, "Hopper-v5", reference, "again")
    with pytest.raises(DataError, match=f"found only: {name}"):
        read_minari("namm/hopper/other-v0")


def test_normalised_scores_run_from_random_to_expert():
    assert normalised_score(-20.272305, reference_scores("Hopper-v5")) == pytest.approx(0.0)
    assert normalised_score(12135.0, reference_scores("halfcheetah-medium-replay-v2")) == pytest.approx(100.0)
    assert reference_scores("ant-full-replay") == reference_scores("ant-random-v0") == (-325.6, 3879.7)
    # a decision transformer's published 67.6 on hopper-medium is a return of about 2180
    assert normalised_score(2179.8, reference_scores("hopper-medium-v2")) == pytest.approx(67.6, abs=0.01)


@pytest.mark.parametrize("name", ["hoper", "hopper-medum", "cartpole-v1"])
def test_unknown_reference_scores_are_refused(name):
    with pytest.raises(UnknownNameError, match="Known"):
        reference_scores(name)


def test_state_statistics_are_over_all_steps():
    statistics = state_statistics(EPISODES)
    states = np.concatenate([episode.observations for episode in EPISODES])
    whitened = statistics.normalise(states)
    assert whitened.dtype == np.float32
    np.testing.assert_allclose(whitened.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(whitened.std(0), 1.0, atol=1e-4)
    with pytest.raises(DataError, match="at least one"):
        state_statistics([])


@pytest.mark.parametrize(("robot", "dimensions"), [("hopper", 11), ("halfcheetah", 17), ("walker2d", 17)])
@pytest.mark.parametrize("quality", ["medium", "medium-replay", "medium-expert", "expert"])
def test_published_statistics_are_complete(robot, dimensions, quality):
    statistics = published_statistics(f"{robot}-{quality}")
    assert statistics.mean.shape == statistics.std.shape == (dimensions,)
    assert (statistics.std > 0.01).all()


def test_published_hopper_medium_is_what_the_model_card_says():
    statistics = published_statistics("hopper-medium")
    assert statistics.mean[0] == pytest.approx(1.311279)
    assert statistics.std[-1] == pytest.approx(5.6072536, abs=1e-5)
    with pytest.raises(UnknownNameError, match="Did you mean 'hopper-medium"):
        published_statistics("hopper-medum")
