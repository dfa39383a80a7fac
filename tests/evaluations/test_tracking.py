"""The W&B mirror holds what the rows hold, is made once, and never costs an experiment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from evaluations.tracking import Media, Tracker, summary
from tests.evaluations.made_up_rows import made_up_rows


@pytest.fixture
def rows():
    return [row for row in made_up_rows() if row["policy"] == "namm (target)"]


@pytest.fixture
def media(tmp_path) -> Media:
    frames = [Image.new("RGB", (32, 32), (20 * i, 0, 0)) for i in range(4)]
    frames[0].save(tmp_path / "episode.gif", save_all=True, append_images=frames[1:], duration=50)
    frames[0].save(tmp_path / "picture.png")
    return Media(picture=tmp_path / "picture.png", video=tmp_path / "episode.gif")


def inspect(folder: str, *options: str) -> str:
    wandb = Path(sys.executable).with_name("wandb")
    executable = str(wandb) if wandb.exists() else shutil.which("wandb")
    command = [executable, "leet", "inspect", *options, "--json", folder]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_an_offline_run_read_back_says_what_the_rows_say(tmp_path, rows, media, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with Tracker("offline", tmp_path / "rl", {"seeds": [0, 1, 2]}) as tracker:
        (tmp_path / "rl").mkdir()
        folder = tracker.mirror(rows, media)
    found = json.loads(inspect(folder, "--summary"))
    assert found["state"] == "finished"
    assert found["exit_code"] == 0
    assert found["project"] == "namm-transfer"
    assert found["name"] == "hopper-namm-(target)"
    for name in ("policy", "env", "statistics", "interval", "namm_sha256", "checkpoint_sha256", "versions"):
        assert found["config"][name] == _expected(rows[0])[name]
    assert found["config"]["experiment"] == {"seeds": [0, 1, 2]}
    for name, value in summary(rows).items():
        assert found["summary"][name] == pytest.approx(value)
    assert found["summary"]["episodes"]["nrows"] == sum(len(row["episodes"]) for row in rows)
    assert found["summary"]["video"]["path"].endswith(".gif")
    assert found["summary"]["retention"]["_type"] == "image-file"
    table = json.loads((Path(folder) / "files" / found["summary"]["episodes"]["path"]).read_text())
    returns = [line[table["columns"].index("return")] for line in table["data"]]
    assert returns == pytest.approx([episode["return"] for row in rows for episode in row["episodes"]])


def test_history_has_own_axes_and_one_point_per_episode(tmp_path, rows):
    with Tracker("offline", tmp_path) as tracker:
        folder = tracker.mirror(rows)
    records = [json.loads(line) for line in inspect(folder).splitlines()]
    assert any(record.get("run", {}).get("run_group") == tmp_path.name for record in records)
    assert any(record.get("run", {}).get("job_type") == "evaluate" for record in records)
    axes = {
        record["metric"]["glob_name"]: record["metric"]["step_metric"]
        for record in records
        if record["type"] == "metric" and "glob_name" in record["metric"]
    }
    assert axes == {"episode/*": "episode/index", "cache/*": "cache/env_step"}
    assert sum("episode" in json.dumps(record.get("history", "")) for record in records) >= 12


def test_the_same_rows_are_mirrored_once_also_by_a_later_process(tmp_path, rows):
    with Tracker("offline", tmp_path) as tracker:
        assert tracker.mirror(rows[:1])
        assert tracker.mirror(rows[:1]) is None
    with Tracker("offline", tmp_path) as tracker:
        assert tracker.is_tracked(rows[:1])
        assert not tracker.is_tracked(rows[:2])
    (tmp_path / "tracked.json").write_text("{half")
    assert not Tracker("offline", tmp_path).is_tracked(rows[:1])


def test_an_error_while_mirroring_marks_the_run_failed_and_finishes_it(tmp_path, rows):
    tracker = Tracker("offline", tmp_path)
    with pytest.raises(FileNotFoundError), tracker:
        tracker.mirror(rows, Media(picture=tmp_path / "missing.png"))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert json.loads(inspect(str(folder), "--summary"))["exit_code"] == 1
    assert not tracker.is_tracked(rows)


def test_disabled_and_missing_wandb_do_nothing_and_say_so_in_one_line(tmp_path, rows, monkeypatch):
    with Tracker("disabled", tmp_path) as tracker:
        assert tracker.mirror(rows) is None
        assert tracker.notice == ""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with Tracker("auto", tmp_path) as tracker:
        assert tracker.mirror(rows) is None
        assert "pip install wandb" in tracker.notice
    assert list(tmp_path.iterdir()) == []


def test_auto_means_offline_where_nobody_is_logged_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert Tracker("auto", tmp_path).mode == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert Tracker("auto", tmp_path).mode == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Tracker("auto", tmp_path).mode == "offline"


def test_importing_the_tracker_does_not_import_wandb():
    code = "import sys, evaluations.tracking; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _expected(row: dict) -> dict:
    return {**row["identity"], "policy": row["policy"], "env": row["task"], "versions": row["versions"]}
