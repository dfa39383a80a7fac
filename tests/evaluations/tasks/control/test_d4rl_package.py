"""With the d4rl package, where it is installed, and with one laid out like it: both paths to data and scores agree.

The package imports on Python 3.11 without its simulators: pip install --no-deps d4rl==1.1 'gym<0.25' gym-notices.
"""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from evaluations.tasks.control import d4rl_package
from evaluations.tasks.control.d4rl import published_statistics, reference_scores, tasks
from evaluations.tasks.control.d4rl_files import open_hdf5, read_hdf5
from evaluations.tasks.control.find import dataset_facts, open_dataset
from namm.errors import DataError
from tests.evaluations.tasks.control.test_d4rl import assert_same, locomotion_arrays

REAL = importlib.util.find_spec("d4rl") is not None


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of D4RL, and nothing remembered of any package."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


def forget() -> None:
    d4rl_package.table.cache_clear()
    d4rl_package.working_package.cache_clear()


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


@pytest.fixture
def laid_out(tmp_path, monkeypatch):
    """Builds an importable package with the parts of d4rl that are used: `infos`, and `offline_env` with a download."""

    def build(server: Path, importable: bool = True) -> None:
        folder = tmp_path / "site" / "d4rl"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("" if importable else "raise Exception('You appear to be missing MuJoCo')")
        (folder / "infos.py").write_text(
            textwrap.dedent(f"""
            DATASET_URLS = {{"hopper-medium-v2": {str(server)!r}}}
            REF_MIN_SCORE = {{"hopper-medium-v2": -20.272305}}
            REF_MAX_SCORE = {{"hopper-medium-v2": 3234.5}}
            """)
        )
        (folder / "offline_env.py").write_text(
            textwrap.dedent("""
            import os, shutil
            def download_dataset_from_url(url):
                place = os.path.join(os.environ["D4RL_DATASET_DIR"], os.path.basename(url))
                os.makedirs(os.path.dirname(place), exist_ok=True)
                shutil.copy(url, place)
                return place
            """)
        )
        for name in [name for name in sys.modules if name.partition(".")[0] == "d4rl"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(folder.parent))
        forget()

    yield build
    for name in [name for name in sys.modules if name.partition(".")[0] == "d4rl"]:
        sys.modules.pop(name)


def test_a_working_package_fetches_its_datasets_and_its_scores_win(laid_out, tmp_path, cache):
    server = write(tmp_path / "server" / "hopper_medium-v2.hdf5", locomotion_arrays(90, {39: "fall", 69: "time"}))
    laid_out(server)
    facts = dataset_facts("hopper-medium")
    assert (cache / "hopper_medium-v2.hdf5").is_file()
    states = np.concatenate([episode.observations for episode in read_hdf5(server)])
    np.testing.assert_allclose(facts.statistics.mean, states.mean(0), atol=1e-6)
    assert_same(open_dataset("hopper-medium-v2").episodes, read_hdf5(server))
    assert reference_scores("hopper-medium-v2") == (-20.272305, 3234.5)
    assert reference_scores("hopper-expert-v2") == (-20.272305, 3234.3)  # which that table lacks


def test_a_package_that_cannot_download_says_why(laid_out, tmp_path):
    laid_out(tmp_path / "server" / "hopper_medium-v2.hdf5")
    with pytest.raises(DataError, match=r"d4rl to download .*hopper_medium-v2\.hdf5.*FileNotFoundError"):
        open_dataset("hopper-medium-v2")
    with pytest.warns(UserWarning, match="published statistics are used instead"):
        assert dataset_facts("hopper-medium-v2").origin.startswith("the published")


def test_a_package_that_does_not_import_is_named_and_done_without(laid_out, tmp_path):
    """With mujoco_py installed and its library missing, importing d4rl raises a plain Exception."""
    laid_out(tmp_path / "hopper_medium-v2.hdf5", importable=False)
    with pytest.warns(UserWarning, match=r"does not import \(Exception: You appear to be missing"):
        facts = dataset_facts("hopper-medium-v2")
    np.testing.assert_array_equal(facts.statistics.mean, published_statistics("hopper-medium").mean)
    assert facts.reference_scores == (-20.272305, 3234.5)  # its table imports nothing


def test_d4rls_cache_serves_without_the_package(cache):
    write(cache / tasks()["antmaze-umaze-v0"].file, locomotion_arrays(9, {8: "fall"}))
    assert len(open_dataset("antmaze-umaze-v0").episodes) == 1
    if not REAL:
        with pytest.raises(DataError, match=r"antmaze-medium-play-v2.*no working d4rl package"):
            open_dataset("antmaze-medium-play-v2")


@pytest.mark.skipif(not REAL, reason="pip install --no-deps d4rl==1.1 'gym<0.25' gym-notices")
def test_the_real_package_cuts_and_scores_as_we_do(cache):
    """d4rl's own reader and `sequence_dataset` on a file of each generation, against ours."""
    d4rl = d4rl_package.working_package()
    assert d4rl is not None
    own = d4rl_package.table()
    for name in ("hopper-medium-v0", "hopper-medium-replay-v2", "antmaze-umaze-v2", "kitchen-mixed-v0"):
        task = tasks()[name]
        assert own["DATASET_URLS"][name] == task.url
        if name.endswith("v0"):
            # one episode that only the count ends, then shorter ones: from the second on d4rl's count is one too early
            steps = task.steps
            arrays = locomotion_arrays(steps + 200, {steps + 99: "fall", steps + 149: "fall"})
            del arrays["timeouts"], arrays["next_observations"]
        else:
            arrays = locomotion_arrays(2400, {99: "fall", 799: "time", 1799: "fall, time", 2099: "fall"})
        path = write(cache / task.file, arrays)
        lowest, highest = task.reference
        environment = d4rl.offline_env.OfflineEnv(task.url, ref_min_score=lowest, ref_max_score=highest)
        for space, width in (("observation_space", 11), ("action_space", 3)):
            setattr(environment, space, np.empty(width))  # d4rl reads no more of them than their shape
        environment._max_episode_steps = task.steps
        theirs = list(d4rl.sequence_dataset(environment, environment.get_dataset(h5path=str(path))))
        ours = open_hdf5(path).episodes
        assert len(ours) == len(theirs) > 2, name
        for one, other in zip(ours, theirs, strict=True):
            for key in ("observations", "actions", "rewards"):
                assert np.array_equal(getattr(one, key), other[key]), (name, key)
            assert one.terminated == other["terminals"][-1]
        assert open_dataset(name).episodes[0].total == ours[0].total
        assert reference_scores(name) == (environment.ref_min_score, environment.ref_max_score) == task.reference
