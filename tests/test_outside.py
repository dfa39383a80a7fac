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


def test_a_modality_from_outside_runs_through_examination_harness_report_and_dashboard(
    path: str, tmp_path: Path
) -> None:
    program = f"""
from pathlib import Path
from modalities.conformance.examine import examine, subject_of
from riddles.experiment import run
from riddles.model import LookupMachine
verdict = examine(subject_of(LookupMachine()))
assert verdict.conforms, verdict
run(Path({str(tmp_path)!r}), ("window", "random", "every_other(protected_first=2)"))
from evaluations.dashboard import main
assert main([{str(tmp_path)!r}]) == 0
"""
    run(path, "-c", program)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    policies = ("full", "window", "random", "every_other(protected_first=2)")
    score = {policy: [row["score"] for row in rows if row["policy"] == policy] for policy in policies}
    assert score["full"] == [100.0, 100.0]
    assert max(score["window"] + score["random"]) < 100.0
    assert len(score["every_other(protected_first=2)"]) == 2  # a policy from outside, by its name and with an option
    assert all(row["metrics"]["slots_mean"] <= 20 + 16 for row in rows if row["policy"] != "full")
    page = (tmp_path / "report.html").read_text()
    for said in ("Riddles a policy: 24", "key held %", "mean slots per KV head when the riddle is asked"):
        assert said in page
    board = (tmp_path / "dashboard.html").read_text()
    data = json.loads(re.search(r"<script id='data' type='application/json'>(.*?)</script>", board).group(1))
    assert [section["title"] for section in data["sections"]] == ["Score", "Memory", "Riddles", "Table"]
    assert {cell["modality"] for cell in data["cells"]} == {"riddles"}
    window = next(cell for cell in data["cells"] if cell["policy"] == "window")
    assert sorted(window["spread"]["riddle/score"]) == sorted(
        trial["score"] for row in rows if row["policy"] == "window" for trial in row["riddles"]
    )


def test_without_the_package_its_rows_are_refused_by_name(path: str, tmp_path: Path) -> None:
    run(
        path,
        "-c",
        f"from pathlib import Path; from riddles.experiment import run; run(Path({str(tmp_path)!r}), ('window',))",
    )
    from evaluations.dashboard import main

    assert main([str(tmp_path)]) == 2
