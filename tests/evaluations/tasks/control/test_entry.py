"""What does not fit, is of another kind, or contradicts itself does not pass through offline data in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from evaluations.data import main
from evaluations.tasks.control.contradictions import end_remarks, name_remarks, score_remarks
from evaluations.tasks.control.d4rl import reference_scores
from evaluations.tasks.control.d4rl_files import open_hdf5
from evaluations.tasks.control.find import dataset_facts
from evaluations.tasks.control.minari_files import open_minari
from namm.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
NAME = "a-set/made-up-v0"


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Two episodes of a Minari set, five and four steps; its HDF5 file."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    random = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=random.normal(size=(steps + 1, 3)).astype(np.float32),
            actions=random.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
            rewards=random.normal(size=steps),
            terminations=np.arange(steps) == steps - 1,
            truncations=np.zeros(steps, bool),
        )
        for number, steps in enumerate((5, 4))
    ]
    spaces = (gym.spaces.Box(-np.inf, np.inf, (width,), np.float32) for width in (3, 2))
    minari.create_dataset_from_buffers(
        NAME, buffers, **dict(zip(("observation_space", "action_space"), spaces, strict=True))
    )
    return tmp_path / "minari" / NAME / "data" / "main_data.hdf5"


def change(path: Path, episode: int, **arrays: Any) -> None:
    with h5py.File(path, "r+") as file:
        group = file[f"episode_{episode}"]
        for name, values in arrays.items():
            before = group[name][()]
            del group[name]
            group[name] = values(before)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"observations": lambda x: x[:-1]}, "4 observations, 4 actions"),
        ({"observations": lambda x: np.concatenate([x, x[-1:]])}, "6 observations"),
        ({"actions": lambda x: x[:-1]}, "3 actions"),
        ({"actions": lambda x: np.concatenate([x, x[-1:]])}, "5 actions"),
        ({"rewards": lambda x: x[1:]}, "3 rewards"),
        ({"terminations": lambda x: x[1:]}, "3 terminations"),
        ({"truncations": lambda x: x[:0]}, "0 truncations"),
        ({"observations": lambda x: x[:, :2]}, "vectors of 3 numbers in observations"),
        ({"actions": lambda x: x[:, 0]}, "vectors of 2 numbers in actions"),
        ({"rewards": lambda x: x[:, None]}, "one number a step in rewards"),
        ({"rewards": lambda x: np.where(np.arange(len(x)) == 1, np.nan, x)}, "finite numbers in rewards"),
        ({"actions": lambda x: x * np.inf}, "finite numbers in actions"),
        ({"rewards": lambda x: x.astype("S8")}, "numbers in rewards"),
        (dict.fromkeys(("actions", "rewards", "terminations", "truncations"), lambda x: x[:0]), "0 rewards"),
    ],
)
def test_an_episode_whose_arrays_do_not_fit_is_named_with_its_file(data, arrays, found):
    assert len(open_minari(NAME).episodes) == 2
    change(data, 1, **arrays)
    with pytest.raises(DataError, match=f"episode 1 of {NAME}") as error:
        open_minari(NAME)
    assert found in str(error.value)
    for command in (["info", NAME], ["to-d4rl", NAME, str(data.parent / "out.hdf5")]):
        assert main(command) == 2
    assert not (data.parent / "out.hdf5").exists()


def test_ends_flagged_early_and_metadata_that_count_otherwise_are_said(data):
    change(data, 0, terminations=lambda x: np.arange(len(x)) != 2)
    minari.load_dataset(NAME).storage.update_metadata({"total_steps": 11})
    remarks = open_minari(NAME).remarks
    assert any("1 episodes have an end flagged before their last step" in remark for remark in remarks)
    assert any("the metadata say 11 steps, the episodes have 9" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"ref_min_score": 1.0}, "a finite number in ref_max_score of the metadata of .* found null"),
        ({"ref_max_score": 1.0}, "a finite number in ref_min_score"),
        ({"ref_min_score": "1", "ref_max_score": 2.0}, r"in ref_min_score of .* found '1' \(text\)"),
        ({"ref_min_score": 2.0, "ref_max_score": 2.0}, r"a return above ref_min_score \(2\) in ref_max_score"),
        ({"ref_min_score": 3.0, "ref_max_score": 2.0}, r"a return above ref_min_score \(3\)"),
        ({"ref_min_score": 0.0, "ref_max_score": float("nan")}, "in ref_max_score of .* found nan"),
    ],
)
def test_reference_scores_that_are_none_are_refused(data, tmp_path, scores, said):
    minari.load_dataset(NAME).storage.update_metadata(scores)
    with pytest.raises(DataError, match=said):
        open_minari(NAME)
    walk(tmp_path / "a.hdf5", **scores)
    with pytest.raises(DataError, match=said.replace("the metadata of ", "")):
        open_hdf5(tmp_path / "a.hdf5")


def walk(path: Path, shift: int = 0, ends: int = 5, steps: int = 60, width: int = 11, **attributes: Any) -> None:
    """A file without next_observations: slow walks that begin anew, their time-outs flagged `shift` steps late."""
    random = np.random.default_rng(0)
    parts = [random.normal(size=width) + 0.05 * random.normal(size=(steps, width)).cumsum(0) for _ in range(ends + 1)]
    states, flags = np.concatenate(parts), np.zeros((ends + 1) * steps, bool)
    flags[np.arange(1, ends + 1) * steps - 1 + shift] = True
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = states, np.zeros((len(states), 3))
        file["rewards"], file["terminals"], file["timeouts"] = np.ones(len(states)), np.zeros(len(states), bool), flags
        file.attrs.update(attributes)


@pytest.mark.parametrize("ends", [1, 2, 5])
@pytest.mark.parametrize("shift", [-2, -1, 1, 3])
def test_time_outs_out_of_step_are_seen_where_no_next_observations_tell(tmp_path, shift, ends):
    walk(tmp_path / "a.hdf5", shift, ends)
    side = "before" if shift > 0 else "after"
    expected = f"at {ends} of {ends} ends the states jump {abs(shift)} step{'s' * (abs(shift) > 1)} {side} the end"
    assert any(expected in remark for remark in open_hdf5(tmp_path / "a.hdf5").remarks)
    assert any(expected in remark for remark in dataset_facts(str(tmp_path / "a.hdf5")).remarks)
    walk(tmp_path / "right.hdf5", 0, ends)
    assert not [r for r in open_hdf5(tmp_path / "right.hdf5").remarks if "step" in r]


def test_missing_ends_and_ends_where_states_go_on_are_seen():
    random = np.random.default_rng(1)
    states = np.concatenate([random.normal(size=4) + 0.05 * random.normal(size=(50, 4)).cumsum(0) for _ in range(8)])
    ends = np.arange(1, 9) * 50 - 1
    assert end_remarks(states, ends) == []
    (remark,) = end_remarks(states, ends[::2])
    assert "times inside episodes as they do where one ends" in remark
    smooth = 0.05 * random.normal(size=(400, 4)).cumsum(0)
    (remark,) = end_remarks(smooth, ends)
    assert "go on across" in remark
    assert end_remarks(random.normal(size=(400, 4)), ends) == []  # neighbours are never near: nothing can be seen


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"ref_min_score": "-20.3", "ref_max_score": 3234.3}, r"in ref_min_score of .*, found '-20\.3' \(text\)"),
        ({"ref_min_score": np.array([1.0, 2.0]), "ref_max_score": 3.0}, "in ref_min_score"),
        ({"env_id": 5}, "the id of an environment in env_id of .* found 5"),
        ({"env_id": ""}, "the id of an environment in env_id"),
    ],
)
def test_attributes_of_another_kind_are_refused(tmp_path, attributes, said):
    walk(tmp_path / "a.hdf5", **attributes)
    with pytest.raises(DataError, match=said):
        open_hdf5(tmp_path / "a.hdf5")


def test_attributes_as_writers_store_them_are_understood(tmp_path):
    walk(tmp_path / "a.hdf5", env_id=np.bytes_("Hopper-v5"), ref_min_score=np.array([-20.272305]), ref_max_score=3234.3)
    found = open_hdf5(tmp_path / "a.hdf5")
    assert (found.env_id, found.reference_scores) == ("Hopper-v5", (-20.272305, 3234.3))
    assert len(found.remarks) == 1  # that there are no next_observations


def test_scores_names_and_sizes_that_are_not_d4rls_are_said(tmp_path):
    walk(tmp_path / "hopper_medium-v2.hdf5", env_id="Walker2d-v4", ref_min_score=0.0, ref_max_score=3000.0)
    remarks = " ".join(open_hdf5(tmp_path / "hopper_medium-v2.hdf5").remarks)
    assert "(random 0, expert 3000) are not D4RL's for hopper-medium-v2 (-20.2723, 3234.3)" in remarks
    assert "named after hopper-medium-v2, but says that its environment is Walker2d-v4" in remarks
    assert score_remarks(reference_scores("hopper"), ("Hopper-v5",), "x") == []
    assert score_remarks((0.0, 1.0), (None, "MyOwn-v0"), "x") == []
    assert name_remarks("Hopper-v4", None, 11, 3) == []
    assert (
        "states of 11 and actions of 3 numbers, these data have 17 and 6" in name_remarks("Hopper-v4", None, 17, 6)[0]
    )


@pytest.mark.parametrize("pair", [("5", "5"), ("5", "1"), ("nan", "1"), ("0", "inf")])
def test_reference_scores_on_the_command_line_are_checked(tmp_path, data, capsys, pair):
    walk(tmp_path / "a.hdf5")
    assert main(["to-minari", str(tmp_path / "a.hdf5"), "other/set-v0", "--reference", *pair]) == 2
    assert "--reference" in capsys.readouterr().err
