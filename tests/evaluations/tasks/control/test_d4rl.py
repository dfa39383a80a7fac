"""D4RL's file schema, Minari, reference scores: what is written is read back, what is damaged is refused."""

from __future__ import annotations

import gzip
import json
import pickle
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import pytest

from evaluations.tasks.control import d4rl_files
from evaluations.tasks.control.d4rl import (
    Episode,
    find_task,
    normalised_score,
    published_statistics,
    reference_scores,
    state_statistics,
    task_in,
    task_of_file,
    tasks,
)
from evaluations.tasks.control.d4rl_files import open_hdf5, read_hdf5, write_hdf5
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


def locomotion_arrays(steps: int, ends: dict[int, str], seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays as D4RL's hopper files hold them: a random walk that starts anew after each end."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(steps, 11)).astype(np.float32)
    following = np.concatenate([states[1:], states[:1]])
    for end in ends:
        following[end] = random.normal(size=11)
    return {
        "observations": states,
        "actions": random.uniform(-1, 1, size=(steps, 3)).astype(np.float32),
        "rewards": random.normal(1.0, 1.0, size=steps).astype(np.float32),
        "next_observations": following,
        "terminals": flags(*(end for end, kind in ends.items() if "fall" in kind), length=steps),
        "timeouts": flags(*(end for end, kind in ends.items() if "time" in kind), length=steps),
    }


def test_a_v2_file_is_read_whatever_its_behaviour_policy_looks_like(tmp_path):
    """Two thousand numbers of metadata in odd types lie beside the data; none of them is opened."""
    arrays = locomotion_arrays(400, {99: "fall", 249: "time", 299: "fall, time"})
    with h5py.File(tmp_path / "hopper_medium-v2.hdf5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")
        file["infos/qpos"], file["infos/qvel"] = np.zeros((400, 6)), np.full((400, 6), np.nan)
        file["infos/action_log_probs"] = np.full(400, -np.inf, np.float32)
        file["metadata/algorithm"] = np.bytes_("SAC")
        file["metadata/iteration"] = np.int64(10_000)
        file["metadata/policy/fc0/weight"] = np.zeros((256, 11), np.float64)
        file["metadata/policy/nonlinearity"] = "relu"
        file["metadata/policy/output_distribution"] = h5py.Empty("f4")
        file["metadata/odd"] = np.array(["a", "bc"], dtype=h5py.string_dtype())
    dataset = open_hdf5(tmp_path / "hopper_medium-v2.hdf5")
    episodes = dataset.episodes
    assert [(len(e.rewards), e.terminated, e.timed_out) for e in episodes] == [
        *((100, True, False), (150, False, True), (50, True, True)),
    ]
    assert dataset.left_out == 100
    assert (dataset.env_id, dataset.reference_scores) == ("Hopper-v4", (-20.272305, 3234.3))
    assert dataset.remarks == ()
    for episode, end in zip(episodes, (99, 249, 299), strict=True):
        assert np.array_equal(episode.last_observation, arrays["next_observations"][end])
    assert np.array_equal(episodes[1].observations, arrays["observations"][100:250])
    assert sum(e.total for e in episodes) == pytest.approx(arrays["rewards"][:300].sum(dtype=np.float64))


def test_a_v0_file_without_timeouts_is_cut_as_d4rl_cuts_its_task(tmp_path):
    """Generation v0 has no timeouts and no next_observations; a kitchen episode there lasts 280 steps."""
    arrays = locomotion_arrays(700, {9: "fall"})
    del arrays["timeouts"], arrays["next_observations"]
    lengths = {}
    for name in ("hopper_mixed.hdf5", "kitchen_microwave_kettle_light_slider-v0.hdf5"):
        with h5py.File(tmp_path / name, "w") as file:
            for key, values in arrays.items():
                file[key] = values
        dataset = open_hdf5(tmp_path / name)
        lengths[name] = [len(e.rewards) for e in dataset.episodes]
        assert any("no timeouts" in remark for remark in dataset.remarks)
        last = dataset.episodes[0]
        assert np.array_equal(last.last_observation, last.observations[-1])
    assert lengths == {"hopper_mixed.hdf5": [10], "kitchen_microwave_kettle_light_slider-v0.hdf5": [10, 280, 280]}


def test_an_antmaze_file_with_float_flags_and_trailing_axes(tmp_path):
    """AntMaze stores 29-dimensional states in float64, sparse rewards, flags as floats or bytes, goals in infos."""
    random = np.random.default_rng(0)
    states = random.normal(size=(60, 29))
    path = tmp_path / "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = states
        file["actions"] = random.uniform(-1, 1, size=(60, 8, 1))
        file["rewards"] = np.zeros((60, 1, 1))
        file["terminals"] = flags(19, length=60).astype(np.float32)[:, None]
        file["timeouts"] = flags(49, length=60).astype(np.uint8)
        file["infos/goal"] = np.zeros((60, 2))
    dataset = open_hdf5(path)
    assert [(len(e.rewards), e.terminated) for e in dataset.episodes] == [(20, True), (30, False)]
    assert dataset.episodes[0].actions.shape == (20, 8)
    assert dataset.episodes[0].observations.dtype == np.float32
    assert (dataset.reference_scores, dataset.env_id) == ((0.0, 1.0), None)
    exact = open_hdf5(path, dtype=None).episodes[1]
    assert exact.observations.dtype == np.float64
    assert np.array_equal(exact.observations, states[20:50])


def test_a_file_packed_as_a_whole_is_unpacked(tmp_path):
    write_hdf5(tmp_path / "a.hdf5", EPISODES)
    (tmp_path / "a.hdf5.gz").write_bytes(gzip.compress((tmp_path / "a.hdf5").read_bytes()))
    assert_same(read_hdf5(tmp_path / "a.hdf5.gz"), EPISODES)
    (tmp_path / "b.hdf5.gz").write_bytes((tmp_path / "a.hdf5.gz").read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        read_hdf5(tmp_path / "b.hdf5.gz")


def test_last_observations_are_found_in_every_block(tmp_path, monkeypatch):
    """next_observations is read block by block; an end may be the first or the last row of one."""
    arrays = locomotion_arrays(50, {9: "fall", 19: "time", 20: "fall", 29: "time", 49: "fall"})
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    whole = read_hdf5(tmp_path / "a.hdf5")
    monkeypatch.setattr(d4rl_files, "BLOCK", 10)
    assert_same(read_hdf5(tmp_path / "a.hdf5"), whole)
    assert len(whole) == 5


def test_a_missing_end_shows_where_states_do_not_continue(tmp_path):
    """The classic mistake: timeouts are all False, and two episodes look like one."""
    arrays = locomotion_arrays(40, {19: "time", 39: "fall"})
    arrays["timeouts"][:] = False
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    dataset = open_hdf5(tmp_path / "a.hdf5")
    assert len(dataset.episodes) == 1
    assert dataset.remarks[0].startswith("1 of 40 steps do not lead to the next state")


def test_a_pickle_is_never_opened(tmp_path):
    """The Decision Transformer's own scripts keep lists of dictionaries in pickles, which can run code."""

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    (tmp_path / "hopper-medium-v2.pkl").write_bytes(pickle.dumps([Bomb()]))
    with pytest.raises(DataError, match="pickle, which is never opened"):
        read_hdf5(tmp_path / "hopper-medium-v2.pkl")
    assert not (tmp_path / "exploded").exists()


def test_written_files_keep_both_flags_and_precision(tmp_path):
    states = np.random.default_rng(0).normal(size=(4, 2))
    both = Episode(states[:-1], states[:-1, :1], states[:-1, 0], states[-1], terminated=True, truncated=True)
    write_hdf5(tmp_path / "a.hdf5", [both], dtype=None, attributes={"env_id": "My-v0", "ref_min_score": None})
    dataset = open_hdf5(tmp_path / "a.hdf5", dtype=None)
    assert_same(dataset.episodes, [both])
    assert (dataset.episodes[0].truncated, dataset.env_id) == (True, "My-v0")
    assert dataset.episodes[0].observations.dtype == np.float64


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
        ({"terminals": np.full(10, np.nan)}, "flags"),
        ({"timeouts": np.arange(10)}, "flags"),
        ({"observations": np.full((10, 2), 1e300), "terminals": flags(9)}, "infinity"),
        ({"rewards": None, "episode_0/rewards": np.ones(3)}, "Minari"),
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


def d4rl_own_table() -> dict[str, tuple[float, float]]:
    """The scores in the installed d4rl's infos.py, or, where it is not installed, those noted from d4rl 1.1."""
    try:
        files = metadata.files("d4rl") or []
        place = next(file.locate() for file in files if file.as_posix() == "d4rl/infos.py")
    except metadata.PackageNotFoundError:
        stored = json.loads(Path(__file__).with_name("d4rl_reference_scores.json").read_text())
        return {name: tuple(pair) for name, pair in stored["scores"].items()}
    names: dict = {}
    exec(compile(Path(place).read_text(), str(place), "exec"), names)  # the file imports nothing
    return {name: (low, names["REF_MAX_SCORE"][name]) for name, low in names["REF_MIN_SCORE"].items()}


def test_every_score_of_the_five_suites_is_d4rls_own():
    suites = ("hopper-", "halfcheetah-", "walker2d-", "ant-", "antmaze-", "maze2d-", "kitchen-", "pen-", "hammer-")
    suites += ("relocate-", "door-")
    own = {name: pair for name, pair in d4rl_own_table().items() if name.startswith(suites)}
    assert len(own) == 115
    assert {name: tasks()[name].reference for name in own} == own
    assert {name: reference_scores(name) for name in own} == own
    assert all(task.reference[0] < task.reference[1] and task.steps > 0 for task in tasks().values())


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("HalfCheetah-v5", (-280.178953, 12135.0)),
        ("ns/Walker2d-v4", (1.629008, 4592.3)),
        ("my_package:Ant-v4", (-325.6, 3879.7)),
        ("maze2d-umaze", (23.85, 161.86)),  # without a version: the newest, v1
        ("maze2d-umaze-v0", (0.94, 62.6)),
        ("antmaze", (0.0, 1.0)),
        ("pen-human", (96.262799, 3076.8331017826877)),
        ("Kitchen-Mixed-v0", (0.0, 4.0)),
    ],
)
def test_scores_by_the_names_people_use(name, scores):
    assert reference_scores(name) == scores


def test_tasks_by_name_by_file_and_inside_a_checkpoints_name():
    assert find_task("hopper_medium").name == "hopper-medium-v2"
    assert find_task("hopper-medium-v7") is None
    assert task_of_file("walker_mixed.hdf5").name == "walker2d-medium-replay-v0"
    assert task_of_file("hopper_medium_expert-v2.hdf5.gz").name == "hopper-medium-expert-v2"
    assert task_of_file("my-own-data.hdf5") is None
    hub = "decision-transformer-gym-"
    assert task_in(f"{hub}halfcheetah-medium-replay").name == "halfcheetah-medium-replay-v2"
    assert task_in(f"{hub}hopper-medium-safetensors").name == "hopper-medium-v2"
    assert task_in("dt_walker2d_expert_v2").name == "walker2d-expert-v2"
    assert task_in("my-hopper-medium-v5-agent") is None  # trained on something else
    assert task_in("grasshopper-mediums") is None


def test_normalised_scores_run_from_random_to_expert():
    assert normalised_score(-20.272305, reference_scores("Hopper-v5")) == pytest.approx(0.0)
    assert normalised_score(12135.0, reference_scores("halfcheetah-medium-replay-v2")) == pytest.approx(100.0)
    assert reference_scores("ant-full-replay") == reference_scores("ant-random-v0") == (-325.6, 3879.7)
    # a decision transformer's published 67.6 on hopper-medium is a return of about 2180
    assert normalised_score(2179.8, reference_scores("hopper-medium-v2")) == pytest.approx(67.6, abs=0.01)


@pytest.mark.parametrize("name", ["hoper", "hopper-medum", "hopper-full-replay-v0", "maze2d", "cartpole-v1"])
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
