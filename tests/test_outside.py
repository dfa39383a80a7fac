"""An outside package brings a modality and a policy by entry points; nothing of this project names them.

The package is tests/outside/riddles, installed here as pip would: on the path, with the metadata that names its entry
points. CONTRIBUTING.md tells how to write one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evaluations.dashboard import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = """
[namm.modalities]
riddles = riddles.adapter:LookupAdapter

[namm.trials]
riddles = riddles.trials:TRIALS

[namm.policies]
every_other = riddles.policy:EveryOther
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH of a process in which the package is installed."""
    site = tmp_path_factory.mktemp("site")
    metadata = site / "riddles-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: riddles\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return f"{ROOT}:{ROOT / 'tests' / 'outside'}:{site}"


def run(path: str, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={"PYTHONPATH": path, "PATH": ""}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def played(path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment of the package, examined, played and shown by a process in which it is installed."""
    folder = tmp_path_factory.mktemp("played")
    program = f"""
from pathlib import Path
from modalities.conformance.examine import examine, subject_of
from riddles.experiment import run
from riddles.model import LookupMachine
verdict = examine(subject_of(LookupMachine()))
assert verdict.conforms, verdict
run(Path({str(folder)!r}), ("window", "random", "every_other(protected_first=2)"))
from evaluations.dashboard import main
assert main([{str(folder)!r}]) == 0
"""
    run(path, "-c", program)
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


def test_without_the_package_its_rows_are_refused_by_name(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(played), "--out", str(played / "again.html")]) == 2
    assert "'riddles'" in capsys.readouterr().err
    assert not (played / "again.html").exists()
