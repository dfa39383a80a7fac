"""An outside package brings a modality, a policy and tasks by entry points; nothing of this project names them.

The package is tests/outside, installed here as pip would: on the path, with the metadata that its pyproject.toml makes.
CONTRIBUTING.md tells how to write one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from evaluations.dashboard import main
from evaluations.tasks.outside import is_task
from evaluations.tasks.recall.tasks import TASKS
from namm import outside
from namm.policies import POLICIES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH of a process in which the package is installed."""
    site = tmp_path_factory.mktemp("site")
    metadata = site / "riddles-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: riddles\nVersion: 1.0\n")
    groups = tomllib.loads((ROOT / "tests" / "outside" / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [line for group, points in groups.items() for line in (f"[{group}]", *map(" = ".join, points.items()))]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return f"{ROOT}:{ROOT / 'tests' / 'outside'}:{site}"


def run(path: str, *command: str) -> str:
    """What a command prints and says, in a process in which the package is installed."""
    done = subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={"PYTHONPATH": path, "PATH": "", "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


COMMANDS = {
    "rl": ["--env", "short-maze", "--quick", "--episodes", "1", "--max-steps", "20", "--no-video"],
    "text": ["--tasks", "lookup", "proverbs", "--prompts", "2", "--example-tokens", "0"],
    "video": ["--benchmark", "rendered", "--clips", "1", "--limit", "2"],
}
PLAYED = ["--policy", "full", "every_other", "--budget", "40", "--wandb", "disabled"]


@pytest.fixture(scope="module")
def played(path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment of the package, examined, played and shown by a process in which it is installed."""
    folder = tmp_path_factory.mktemp("played")
    program = f"""
from pathlib import Path
import evaluations.rl, evaluations.text, evaluations.transfer, evaluations.video
for command in (evaluations.rl, evaluations.text, evaluations.transfer, evaluations.video):
    assert command.main(["--policy", "every_othr", "--out", "nowhere"]) == 2
assert evaluations.text.main(["--tasks", "proverb", "--out", "nowhere"]) == 2
assert evaluations.text.main(["--tasks", "lookpu", "--out", "nowhere"]) == 2
assert evaluations.rl.main(["--env", "shortmaze", "--out", "nowhere"]) == 2
from modalities.conformance.examine import examine, subject_of
from riddles.experiment import run
from riddles.model import LookupMachine
verdict = examine(subject_of(LookupMachine()))
assert verdict.conforms, verdict
run(Path({str(folder)!r}), ("window", "random", "every_other(protected_first=2)"))
from evaluations.dashboard import main
assert main([{str(folder)!r}]) == 0
for name, options in {COMMANDS!r}.items():
    played = [*{PLAYED!r}, *options, "--out", {str(folder)!r} + "-commands/" + name]
    assert getattr(evaluations, name).main(played) == 0
"""
    (folder / "said.txt").write_text(run(path, "-c", program))
    return folder


def test_a_modality_from_outside_runs_through_examination_harness_report_and_dashboard(played: Path) -> None:
    rows = [json.loads(line) for line in (played / "rows.jsonl").read_text().splitlines()]
    policies = ("full", "window", "random", "every_other(protected_first=2)")
    score = {policy: [row["score"] for row in rows if row["policy"] == policy] for policy in policies}
    assert score["full"] == [100.0, 100.0]
    assert max(score["window"] + score["random"]) < 100.0
    assert len(score["every_other(protected_first=2)"]) == 2  # a policy from outside, by its name and with an option
    assert all(row["metrics"]["slots_mean"] <= 20 + 16 for row in rows if row["policy"] != "full")
    page = (played / "report.html").read_text()
    for said in ("Riddles a policy: 24", "key held %", "mean slots per KV head when the riddle is asked"):
        assert said in page
    board = (played / "dashboard.html").read_text()
    data = json.loads(re.search(r"<script id='data' type='application/json'>(.*?)</script>", board).group(1))
    assert [section["title"] for section in data["sections"]][1:] == ["Score", "Memory", "Riddles", "Table"]
    (view,) = data["matrices"]
    assert {cell["line"] for cell in view["cells"]} == set(policies)
    assert {cell["modality"] for cell in data["cells"]} == {"riddles"}
    window = next(cell for cell in data["cells"] if cell["policy"] == "window")
    assert sorted(window["spread"]["riddle/score"]) == sorted(
        trial["score"] for row in rows if row["policy"] == "window" for trial in row["riddles"]
    )


def test_every_command_knows_what_the_package_brings(played: Path) -> None:
    said = (played / "said.txt").read_text()
    assert said.count("Unknown policy 'every_othr'. Did you mean 'every_other'") == 4
    assert "Unknown task 'proverb'. Did you mean 'proverbs'" in said
    assert "Unknown task 'lookpu'. Did you mean 'lookup'" in said
    assert "Did you mean 'short-maze'" in said


def test_the_groups_that_the_guide_names_are_those_that_are_looked_at() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    [block] = re.findall(r"```toml\n(.*?)```", guide, flags=re.DOTALL)
    told = set(tomllib.loads(block)["project"]["entry-points"])
    own = tomllib.loads((ROOT / "tests" / "outside" / "pyproject.toml").read_text())["project"]["entry-points"]
    assert told == set(outside.GROUPS) == set(own)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_plays_its_policy_and_its_tasks_and_reports_them(command: str, played: Path) -> None:
    out = played.with_name(f"{played.name}-commands") / command
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    tasks = ["lookup", "proverbs/last-word"] if command == "text" else [rows[0]["task"]]
    assert {(row["policy"], row["task"]) for row in rows} == {
        (policy, task) for policy in ("full", "every_other") for task in tasks
    }
    assert command != "rl" or {row["target"] for row in rows} == {"short-maze"}
    assert {row["versions"]["riddles"] for row in rows} == {"1.0"}
    assert "every_other" in (out / "report.html").read_text()
    assert "every_other" in (out / "summary.md").read_text()


def test_a_package_that_is_broken_costs_what_it_brings_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "broken-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text(
        "[namm.policies]\nabsent = broken_policies:Absent\nhalf = broken_policies:Half\nh2o = broken_policies:Taken\n"
        "mine = broken_policies:Mine\n[namm.tasks]\nnone = broken_policies:Half\n"
    )
    (tmp_path / "broken_policies.py").write_text(
        "from namm.policies import Policy\n"
        "class Half(Policy): name = 'half'\n"
        "class Taken(Policy):\n    name = 'h2o'\n    def score(self, view): return view.age.float()\n"
        "class Mine(Taken): name = 'mine'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(outside, "brought", outside.brought.__wrapped__)  # what was found before stays as it is
    registry = outside.Registry(list(POLICIES.values()), POLICIES._check, "a policy", "namm.policies")
    with pytest.warns(UserWarning, match="of the package broken is left out") as warned:
        assert "mine" in registry
    said = " ".join(str(warning.message) for warning in warned)
    assert "'absent'" in said
    assert "'half'" in said
    assert "which is that of namm.policies.h2o" in said
    assert registry["h2o"] is POLICIES["h2o"]
    tasks = outside.Registry(list(TASKS.values()), TASKS._check, "a task", "namm.tasks", is_task)
    with pytest.warns(UserWarning, match="'none' of the package broken is left out: expected a text benchmark or"):
        assert len(tasks) == len(TASKS)


def test_without_the_package_its_rows_are_refused_by_name(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(played), "--out", str(played / "again.html")]) == 2
    assert "'riddles'" in capsys.readouterr().err
    assert not (played / "again.html").exists()
