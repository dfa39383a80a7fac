"""The benchmarks of speed run as their docstrings say and print what a table needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = (
    "--shape.layers",
    "1",
    "--shape.width",
    "64",
    "--shape.heads",
    "2",
    "--shape.kv-heads",
    "1",
    "--shape.inner",
    "96",
)


def table(script: str, *arguments: str) -> list[list[str]]:
    """The rows below the head, cell by cell."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--threads", "1", *TINY, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_a_row_for_each_configuration_and_the_base_is_one() -> None:
    """A budget that is not kept, or a base that is not the first configuration."""
    names = ("stock", "namm-30")
    rows = table("peers.py", "--tokens", "1024", "--repetitions", "1", "--configurations", *names)
    assert [row[:2] for row in rows] == [["1,024", name] for name in names]
    assert rows[0][2] == rows[0][5] == rows[0][8] == "1.00x"
    assert 0.3 <= float(rows[1][8].removesuffix("x")) < 0.4  # 30%, and the 48 tokens that followed
    assert all(float(row[4].removesuffix(" s")) <= float(row[3].removesuffix(" s")) for row in rows)  # the limit


def test_a_folder_that_is_no_checkout_of_the_released_code_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    """An environment is installed for minutes before a mistyped folder is noticed, or the end is an import's trace."""
    (tmp_path / "utils.py").touch()
    environment = tmp_path / "environment"
    for folder, found in ((tmp_path, "a folder without memory_llms/llama.py"), (tmp_path / "none", "no folder")):
        options = ("--released", str(folder), "--released-environment", str(environment))
        command = [sys.executable, str(ROOT / "benchmarks" / "peers.py"), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("Expected a checkout of the code released with the paper")
        assert f"at {folder}, found {found}" in done.stderr
        assert "--released FOLDER" in done.stderr
    assert not environment.exists()


def test_the_released_code_is_not_measured_without_a_checkout() -> None:
    """Ours is measured in its name."""
    command = [sys.executable, str(ROOT / "benchmarks" / "peers.py"), "--configurations", "stock", "released-30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--released FOLDER" in done.stderr


@pytest.mark.slow
def test_a_row_for_each_doubling_and_the_full_cache_given_up() -> None:
    """What is held grows in spite of a budget, or a full cache nobody waits for any more is still read."""
    sizes = ("--longest", "2048", "--shortest", "512", "--budget", "512", "--alone", "2", "--patience", "0")
    rows = table("lengths.py", *sizes)
    assert [row[0] for row in rows] == ["512", "1,024", "2,048"]
    assert [row[1] == "—" for row in rows] == [False, True, True]
    assert [row[10] == "—" for row in rows] == [False, True, True]
    ours = [float(row[11].split(" ")[0]) for row in rows]
    assert abs(ours[2] - ours[1]) <= 0.02  # a token more or less of the interval; 0.25 without a budget


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_where_there_is_none() -> None:
    """A first run on a GPU must not end in a mistake of the script's own."""
    options = ("--device", "cpu", "--dtype", "float32", "--tokens", "600", "--new", "2", "--policies", "namm")
    command = [sys.executable, str(ROOT / "benchmarks" / "on_gpu.py"), *options, *TINY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 found wrong" in done.stdout
    assert done.stdout.count("| 600 |") == 4
