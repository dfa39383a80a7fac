"""The W&B mirror holds what the rows hold, is made once, and never costs an experiment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluations.analysis.survival import held_when_asked
from evaluations.boards.run_content import run_content
from evaluations.boards.wandb_package import LEAN
from evaluations.boards.wandb_runs import Media, Tracker
from evaluations.rows.identity import experiment_identity
from tests.evaluations.boards.offline_runs import id_of, inspect, records
from tests.evaluations.rows.made_up_rows import made_up_rows

pytestmark = pytest.mark.slow

SECRET = "0123456789abcdef" * 2 + "c0ffee42"


@pytest.fixture
def rows():
    return [row for row in made_up_rows() if row["policy"] == "namm:target"]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory) -> tuple[list[dict], dict[str, str], Path]:
    """Three rows mirrored offline with pictures and checkpoints: rows, run folder by row key, experiment folder."""
    folder = tmp_path_factory.mktemp("tracking")
    rows = [row for row in made_up_rows("tmaze-150", binary=True) if row["policy"] == "namm:target"]
    checkpoints = {rows[0]["identity"][f"{kind}_sha256"]: folder / kind for kind in ("namm", "checkpoint")}
    for path in checkpoints.values():
        path.mkdir()
        (path / "model.safetensors").write_bytes(path.name.encode() * 50)
        (path / "config.json").write_text("{}")
        (path / "optimizer.pt").write_bytes(b"a training's state")
    frames = [Image.new("RGB", (32, 32), (20 * i, 0, 0)) for i in range(4)]
    frames[0].save(folder / "episode.gif", save_all=True, append_images=frames[1:], duration=50)
    frames[0].save(folder / "picture.png")
    out = folder / "rl"
    out.mkdir()
    settings = {"seeds": [0, 1, 2], "suite": ["memory"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", SECRET)
        patch.setenv("SOME_TOKEN", SECRET[::-1])
        with Tracker("offline", out, settings, checkpoints) as tracker:
            made = tracker.mirror(rows, Media(folder / "picture.png", folder / "episode.gif"))
    return (
        rows,
        dict(
            zip((row["key"] for row in rows), made, strict=True),
        ),
        out,
    )


def test_a_run_read_back_says_of_its_row_what_the_row_says(mirrored):
    rows, folders, _ = mirrored
    assert len(set(folders.values())) == len(rows)
    for row in rows:
        found = json.loads(inspect(folders[row["key"]], "--summary"))
        assert (found["state"], found["exit_code"], found["project"]) == ("finished", 0, "namm-transfer")
        assert found["name"] == f"tmaze-150-namm-target-s{row['seed']}"
        config = found["config"]
        for name, value in {
            **{"modality": "control", "policy": "namm:target", "target": "tmaze-150", "env": row["task"]},
            **{"dataset": "tmaze", "suite": "memory", "seed": row["seed"], "role": "free", "row_key": row["key"]},
            **{key: row["identity"][key] for key in ("namm_sha256", "checkpoint_sha256", "statistics", "interval")},
            "versions": row["versions"],
            "identity": row["identity"],
            "experiment": {"name": "rl", "seeds": [0, 1, 2], "suite": ["memory"]},
        }.items():
            assert config[name] == value, name
        assert found["summary"]["score"] == row["score"]
        for name, value in row["metrics"].items():
            assert found["summary"].get(name) == value, name


def test_history_is_that_of_the_row_against_axes_of_its_own(mirrored):
    rows, folders, _ = mirrored
    for row in rows:
        told = records(folders[row["key"]])
        axes = {
            record["metric"]["glob_name"]: record["metric"]["step_metric"]
            for record in told
            if record["type"] == "metric" and "glob_name" in record["metric"]
        }
        assert axes == {
            **{"episode/*": "episode/index", "cache/*": "cache/env_step", "retention/*": "retention/env_step"},
            **{"age/*": "age/env_steps", "cue/*": "cue/env_steps_since"},
        }
        history = [record["history"]["item"] for record in told if record["type"] == "history"]

        def series(*names, history=history):
            return [[entry[name] for name in names] for entry in history if names[0] in entry]

        steps = list(range(len(row["episodes"])))
        for name in ("return", "score", "length", "slots_mean", "success"):
            values = [float(episode[name]) for episode in row["episodes"]]
            assert series("episode/index", f"episode/{name}") == [list(p) for p in zip(steps, values, strict=True)]
        trace = row["trace"] or {"steps": [], "slots": []}
        pairs = [list(pair) for pair in zip(trace["steps"], trace["slots"], strict=True)]
        assert series("cache/env_step", "cache/slots") == pairs
        kept = row["retention"]
        lines = [list(line) for line in zip(kept["steps"], *(kept["kinds"][kind] for kind in "Rsa"), strict=True)]
        assert series("retention/env_step", *(f"retention/{kind}" for kind in "Rsa")) == lines
        ages = np.mean(kept["layers"], axis=0)
        expected = np.array([kept["age_edges"][:-1], ages]).T
        assert np.array(series("age/env_steps", "age/kept_fraction")) == pytest.approx(expected)
        cues = np.array(series("cue/env_steps_since", "cue/held", "cue/heads"))
        last = [held_when_asked(episode) for episode in row["cue"]["episodes"]]
        assert cues[0].tolist() == [0, 1, 1]
        assert cues[-1] == pytest.approx([45, np.mean([h.any() for h in last]), np.mean([h.mean() for h in last])])


def test_tables_pictures_and_group_are_those_of_the_row(mirrored):
    rows, folders, _ = mirrored
    for row in rows:
        folder = folders[row["key"]]
        summary = json.loads(inspect(folder, "--summary"))["summary"]
        table = json.loads((Path(folder) / "files" / summary["episodes"]["path"]).read_text())
        assert table["data"] == [[episode[name] for name in table["columns"]] for episode in row["episodes"]]
        assert ("video" in summary) == ("memory" in summary) == (row["trace"] is not None)
        if row["trace"]:
            assert summary["video"]["path"].endswith(".gif")
            assert summary["memory"]["_type"] == "image-file"
        (run,) = {json.dumps([r["run"]["run_group"], r["run"]["job_type"]]) for r in records(folder) if "run" in r}
        assert json.loads(run) == ["memory", "evaluate"]


def test_checkpoints_are_artifacts_named_by_their_digest_without_what_lies_beside_them(mirrored):
    rows, folders, _ = mirrored
    logged = {}
    for row in rows:
        found = [r["artifact"] for r in records(folders[row["key"]]) if r["type"] == "artifact"]
        logged[row["seed"]] = {a["name"]: a for a in found if a["type"] == "model"}
    identity = rows[0]["identity"]
    namm, other = f"namm-{identity['namm_sha256'][:16]}", f"decision-transformer-{identity['checkpoint_sha256'][:16]}"
    assert set(logged[0]) == {namm, other}
    assert set(logged[1]) == set(logged[2]) == {namm}  # every run says which NAMM it used
    assert len({told[namm]["digest"] for told in logged.values()}) == 1  # one version, however often it is named
    assert [told[namm].get("use_after_commit") for told in logged.values()] == [True] * 3
    assert "use_after_commit" not in logged[0][other]
    for artifact in logged[0].values():
        assert {entry["path"] for entry in artifact["manifest"]["contents"]} == {"model.safetensors", "config.json"}


def test_nothing_secret_and_nothing_of_the_machine_is_written(mirrored):
    _, folders, out = mirrored
    files = [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert SECRET[::-1].encode() not in content, path
    for folder in folders.values():
        assert not {"wandb-metadata.json", "requirements.txt"} & {p.name for p in Path(folder).rglob("*")}


def test_names_and_ids_follow_from_the_row():
    rows = made_up_rows()
    first = [run_content(row, "rl", {}) for row in rows]
    assert [c.id for c in first] == [run_content(row, "rl", {}).id for row in rows]
    assert len({content.id for content in first} | {run_content(row, "rl2", {}).id for row in rows}) == 2 * len(rows)
    assert first[0].group == "rl"
    curve = {**rows[6], "memory": {**rows[6]["memory"], "role": "curve"}}
    content = run_content(curve, "rl", {"suite": ["d4rl"]})
    assert (content.job_type, content.name, content.group) == ("curve", "hopper-window-b48-s0", "rl")


def test_the_same_rows_are_mirrored_once_also_by_a_later_process(tmp_path, rows):
    with Tracker("offline", tmp_path) as tracker:
        assert tracker.mirror(rows[:1])
        assert tracker.mirror(rows[:1]) == []
    with Tracker("offline", tmp_path) as tracker:
        assert tracker.is_tracked(rows[:1])
        assert not tracker.is_tracked(rows[:2])
    (tmp_path / "tracked.json").write_text("{half")
    assert not Tracker("offline", tmp_path).is_tracked(rows[:1])


def test_a_part_that_cannot_be_mirrored_costs_one_line_and_the_rest_is_there(tmp_path, rows):
    broken = {
        **rows[0],
        "episodes": [{**rows[0]["episodes"][0], "score": value} for value in (1.0, "text", None, True)],
    }
    with Tracker("offline", tmp_path, checkpoints={rows[0]["identity"]["namm_sha256"]: tmp_path / "gone"}) as tracker:
        folders = tracker.mirror([broken], Media(picture=tmp_path / "missing.png"))
        assert tracker.is_tracked([broken])
        lines = tracker.unsaid()[1:]
    assert [line.partition(" is not")[0] for line in lines] == [
        f"W&B: memory of {run_content(broken, 'rl', {}).name}",
        "W&B: a checkpoint",
    ]
    found = json.loads(inspect(folders[0], "--summary"))
    assert (found["exit_code"], found["summary"]["score"]) == (0, broken["score"])
    table = json.loads((Path(folders[0]) / "files" / found["summary"]["episodes"]["path"]).read_text())
    column = [line[table["columns"].index("score")] for line in table["data"]]
    assert column == ["1.0", "text", None, "True"]  # one kind a column, as W&B's tables need


def test_a_run_that_cannot_begin_costs_one_line_and_the_others_are_mirrored(tmp_path, rows, monkeypatch):
    import wandb

    init, calls = wandb.init, []

    def once_broken(**options):
        calls.append(options["id"])
        if len(calls) == 1:
            raise RuntimeError("a service that does not start\nand says more")
        return init(**options)

    monkeypatch.setattr(wandb, "init", once_broken)
    with Tracker("offline", tmp_path) as tracker:
        assert len(tracker.mirror(rows)) == len(rows) - 1
        assert not tracker.is_tracked(rows[:1])
    told = tracker.unsaid()[1:]
    assert len(told) == 1
    assert "RuntimeError: a service that does not start)" in told[0]


def test_an_id_whose_run_was_deleted_is_left_and_another_one_taken(tmp_path, rows, monkeypatch):
    import wandb

    init, ids = wandb.init, []
    message = "returned error 409: run was previously created and deleted; try a new run name"

    def deleted(**options):
        ids.append(options["id"])
        if "-" not in options["id"]:
            raise wandb.errors.CommError(message)
        return init(**options, **{})

    monkeypatch.setattr(wandb, "init", deleted)
    with Tracker("offline", tmp_path) as tracker:
        assert len(tracker.mirror(rows[:2])) == 2
    assert [name.removeprefix(ids[0]) for name in ids[:2]] == ["", "-2"]
    assert len([line for line in tracker.notices if "deleted there" in line]) == 1  # said once
    assert tracker.mode == "offline"


def test_equal_rows_of_two_experiments_of_one_name_have_ids_of_their_own(tmp_path, rows):
    ids = []
    for place in ("here", "there"):
        folder = tmp_path / place / "rl"
        folder.mkdir(parents=True)
        with Tracker("offline", folder) as tracker:
            (made,) = tracker.mirror(rows[:1])
        ids.append(id_of(made))
    assert ids[0] != ids[1]
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "here" / "rl", moved)
    (moved / "tracked.json").unlink()  # the note is lost, the folder has another name: still the same experiment
    with Tracker("offline", moved) as tracker:
        (made,) = tracker.mirror(rows[:1])
    assert id_of(made) == ids[0]


def test_an_identity_is_drawn_once_also_by_many_at_a_time(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(experiment_identity, [tmp_path] * 32))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.id"]
    (tmp_path / "experiment.id").write_text("")
    assert len(experiment_identity(tmp_path)) == 16


def test_where_w_and_b_cannot_be_reached_runs_are_kept_offline_and_it_is_said(tmp_path, rows, monkeypatch):
    """The second attempt has the id of the first, which W&B's process would otherwise call taken."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setitem(LEAN, "init_timeout", 1.0)
    with Tracker("online", tmp_path) as tracker:
        folders = tracker.mirror(rows[:2])
    assert tracker.mode == "offline"
    assert "could not be reached" in tracker.notice
    for folder in folders:
        assert json.loads(inspect(folder, "--summary"))["exit_code"] == 0


def test_disabled_and_missing_wandb_do_nothing_and_say_so_in_one_line(tmp_path, rows, monkeypatch):
    with Tracker("disabled", tmp_path) as tracker:
        assert tracker.mirror(rows) == []
        assert tracker.notice == ""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with Tracker("auto", tmp_path) as tracker:
        assert tracker.mirror(rows) == []
        assert "pip install wandb" in tracker.notice
    assert list(tmp_path.iterdir()) == []


def test_auto_means_offline_where_nobody_is_logged_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert Tracker("auto", tmp_path).mode == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    netrc = tmp_path / "keys" / "netrc"
    netrc.parent.mkdir()
    netrc.write_text("machine api.wandb.ai login user password " + "0" * 40)
    monkeypatch.setenv("NETRC", str(netrc))
    assert Tracker("auto", tmp_path).mode == "online"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    for content in (b"machine a login", b"\xff\xfe\x00", b"no such word", b'machine "unclosed'):
        netrc.write_bytes(content)
        tracker = Tracker("auto", tmp_path)
        assert tracker.mode == "offline"
    monkeypatch.setenv("NETRC", str(netrc.parent))
    assert f"{netrc.parent} could not be read: IsADirectoryError" in Tracker("auto", tmp_path).notice
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert Tracker("auto", tmp_path).mode == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Tracker("auto", tmp_path).mode == "offline"


def test_importing_the_tracker_does_not_import_wandb():
    code = "import sys, evaluations.boards.wandb_runs; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
