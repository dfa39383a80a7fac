"""`namm-data` as a stranger uses it: looks, converts there and back, mistypes."""

from __future__ import annotations

import h5py
import minari
import numpy as np
import pytest

from evaluations.data import main
from evaluations.tasks.control.d4rl import reference_scores
from evaluations.tasks.control.d4rl_files import open_hdf5, read_hdf5
from evaluations.tasks.control.minari_files import open_minari
from tests.evaluations.tasks.control.test_d4rl import locomotion_arrays
from tests.evaluations.tasks.control.test_minari_files import make_hopper

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def walker(tmp_path):
    """A file as D4RL publishes them, whose last 30 steps are unfinished; one episode falls as its time runs out."""
    arrays = locomotion_arrays(230, {79: "fall", 149: "time", 199: "fall, time"})
    random = np.random.default_rng(1)
    arrays["actions"] = random.uniform(-1, 1, size=(230, 6)).astype(np.float32)
    for name in ("observations", "next_observations"):
        arrays[name] = np.concatenate([arrays[name], arrays[name][:, :6]], axis=1)
    path = tmp_path / "walker2d_medium-v2.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file["metadata/algorithm"] = "SAC"
    return path


def arrays_of(path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}


def test_a_d4rl_file_comes_back_from_minari_bit_by_bit(walker, tmp_path, capsys):
    back = tmp_path / "back.hdf5"
    assert main(["to-minari", str(walker), "d4rl/walker2d/medium-v2"]) == 0
    assert main(["to-d4rl", "d4rl/walker2d/medium-v2", str(back)]) == 0
    assert "3 episodes, 200 steps, 30 steps of unfinished episodes left out" in capsys.readouterr().out
    original, returned = arrays_of(walker), arrays_of(back)
    assert set(original) == set(returned)
    for name, values in returned.items():
        assert values.dtype == original[name].dtype, name
        assert np.array_equal(values, original[name][:200]), name
    assert open_hdf5(back).reference_scores == reference_scores("walker2d")
    assert open_hdf5(back).env_id == "Walker2d-v4"
    dataset = minari.load_dataset("d4rl/walker2d/medium-v2")
    assert dataset.recover_environment().spec.id == "Walker2d-v4"
    assert float(minari.get_normalized_score(dataset, np.array(4592.3))) == pytest.approx(1.0)


def test_a_minari_set_comes_back_from_d4rl_bit_by_bit(tmp_path):
    """In float64, as Minari's MuJoCo sets are, with last observations, both flags, and scores."""
    make_hopper("mujoco/hopper/medium-v0")
    file = tmp_path / "hopper.hdf5"
    assert main(["to-d4rl", "mujoco/hopper/medium-v0", str(file)]) == 0
    assert main(["to-minari", str(file), "again/hopper/medium-v0"]) == 0
    before, after = (open_minari(name, None) for name in ("mujoco/hopper/medium-v0", "again/hopper/medium-v0"))
    assert (after.env_id, after.reference_scores) == (before.env_id, before.reference_scores)
    assert len(after.episodes) == len(before.episodes) == 3
    for one, other in zip(after.episodes, before.episodes, strict=True):
        for name in ("observations", "actions", "rewards", "last_observation"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
            assert getattr(one, name).dtype == getattr(other, name).dtype, name
        assert (one.total, one.terminated, one.timed_out) == (other.total, other.terminated, other.timed_out)


def test_info_tells_what_is_inside_whatever_it_is_called(walker, tmp_path, capsys):
    assert main(["info", str(walker)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for fact in ("3, 200 steps", "30 steps of unfinished", "2 by themselves, 2 out of time", "Walker2d-v4", "4592.3"):
        assert fact in said
    mean = np.mean([episode.total for episode in read_hdf5(walker)])
    assert f"{mean:.2f} ±" in said
    (tmp_path / "d4rl").mkdir()
    walker.rename(tmp_path / "d4rl" / walker.name)  # D4RL's cache
    assert main(["info", "walker2d-medium-v2"]) == 0
    assert " ".join(capsys.readouterr().out.split()).partition("environment")[2] == said.partition("environment")[2]


def test_a_d4rl_set_that_is_not_here_is_known_all_the_same(capsys):
    assert main(["info", "antmaze-umaze-v0"]) == 0
    said = capsys.readouterr().out
    assert "700 steps" in said
    assert "expert 1" in said
    assert main(["info", "hopper-medium"]) == 0
    assert "1.311" in capsys.readouterr().out


def test_nothing_is_replaced_unless_asked(walker, tmp_path, capsys):
    back = tmp_path / "back.hdf5"
    back.write_text("mine")
    assert main(["to-d4rl", str(walker), str(back)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert back.read_text() == "mine"
    assert main(["to-d4rl", str(walker), str(back), "--overwrite"]) == 0
    assert len(read_hdf5(back)) == 3
    assert main(["to-minari", str(walker), "a-set/walker-v0"]) == 0
    assert main(["to-minari", str(walker), "a-set/walker-v0"]) == 2
    assert main(["to-minari", str(walker), "a-set/walker-v0", "--env", "Walker2d-v5", "--overwrite"]) == 0
    assert open_minari("a-set/walker-v0").env_id == "Walker2d-v5"


def test_a_set_without_environment_or_scores_says_so(tmp_path, capsys):
    with h5py.File(tmp_path / "mine.hdf5", "w") as file:
        for name, values in locomotion_arrays(20, {19: "fall"}).items():
            file[name] = values
    assert main(["to-minari", str(tmp_path / "mine.hdf5"), "a-set/mine-v0"]) == 0
    said = capsys.readouterr().out
    assert "--env names one" in said
    assert "--reference gives them" in said
    assert main(["to-minari", str(tmp_path / "mine.hdf5"), "a-set/mine-v1", "--reference", "0", "5"]) == 0
    assert open_minari("a-set/mine-v1").reference_scores == (0.0, 5.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "missing.hdf5"], "check the path"),
        (["info", "hopper-meduim-v2"], "Did you mean 'hopper-medium'"),
        (["to-d4rl", "WALKER", "out.csv"], ".hdf5 or .h5"),
        (["to-d4rl", "a-set/none-v0", "OUT"], "a-set/none-v0"),
        (["to-minari", "hopper-random-v2", "a-set/x1-v0"], "hopper_random-v2.hdf5"),
        (["to-minari", "WALKER", "no id"], "namespace/name-v0"),
        (["to-minari", "WALKER", "a-set/x1-v0", "--env", "Hoper-v4"], "Did you mean 'Hopper-v4'"),
        (["to-minari", "WALKER", "a-set/x1-v0", "--env", "Hopper-v4"], "found (17,) and (6,)"),
        (["inspect", "WALKER"], "info, to-minari, to-d4rl"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_code_2(walker, tmp_path, capsys, arguments, said):
    places = {"WALKER": str(walker), "OUT": str(tmp_path / "out.hdf5")}
    assert main([places.get(word, word) for word in arguments]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out.hdf5").exists()
    assert not [path for path in (tmp_path / "minari").rglob("*") if path.is_file()]
