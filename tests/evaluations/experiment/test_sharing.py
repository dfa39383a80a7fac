"""Several processes share an experiment: whatever is killed, and however many they are, the rows are the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from evaluations.control import experiment
from evaluations.rl import main
from tests.evaluations.control.tiny_control import tiny_decision_transformer, tiny_namm

REPOSITORY = Path(__file__).resolve().parents[3]
POLICIES = ("full", "namm:source", "window", "random", "oldest")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """A short experiment with all phases: references and NAMM, matched rivals, curves."""
    folder = tmp_path_factory.mktemp("parts")
    maze = {"env_kwargs": {"corridor_steps": 50}, "context_steps": None, "target_return": 1.0}
    checkpoint = tiny_decision_transformer(folder / "maze", "ContinuousTMaze-v0", **maze)
    namm = tiny_namm(folder / "namm")
    parts = ["--checkpoint", checkpoint, "--namm", namm, "--policy", *POLICIES, "--wandb", "disabled", "--no-video"]
    return [str(part) for part in (*parts, "--episodes", 4, "--seeds", 0, 1, "--max-steps", 40, "--curve", 2)]


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory) -> dict[str, dict]:
    """The rows as one undisturbed process makes them."""
    folder = tmp_path_factory.mktemp("alone") / "rl"
    assert main([*options, "--out", str(folder)]) == 0
    return results(folder)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(experiment, "write_page", lambda path, *rest: path)


def results(folder: Path) -> dict[str, dict]:
    """What decides and what came out, by key; a key twice in the file is an error."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    told = ("target", "policy", "seed", "identity", "score", "episodes", "memory", "retention", "trace")
    found = {row["key"]: {name: row[name] for name in told} for row in rows}
    assert len(found) == len(rows)
    return found


def wait_for(path: Path, lines: int, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_curve_has_every_policy_at_the_same_sizes(alone):
    points = [row for row in alone.values() if row["memory"]["role"] == "curve"]
    assert len(points) == 2 * 4 * 2
    by_size: dict[int, set[float]] = {}
    for row in points:
        by_size.setdefault(row["identity"]["budget"], set()).add(
            round(sum(episode["slots_mean"] for episode in row["episodes"]), 6)
        )
    assert all(len(sizes) == 1 for sizes in by_size.values())  # NAMM's threshold would have held fewer
    assert {row["memory"]["role"] for row in alone.values()} == {"reference", "free", "matched", "curve"}


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_where_another_one_lives(options, alone, tmp_path, capsys):
    """Whatever it was playing is played again, and the rows are those of one undisturbed process."""

    def kill_one() -> None:
        wait_for(tmp_path / "rl" / "rows.jsonl", lines=1)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert main([*options, "--out", str(tmp_path / "rl"), "--workers", "2"]) == 0
    killer.join()
    assert "was killed (SIGKILL)" in capsys.readouterr().out
    assert results(tmp_path / "rl") == alone
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_without_workers_the_unfinished_cells_are_named_and_a_rerun_plays_those_only(options, alone, tmp_path, capsys):
    def kill_all() -> None:
        wait_for(tmp_path / "rl" / "rows.jsonl", lines=1)
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    killer.start()
    assert main([*options, "--out", str(tmp_path / "rl"), "--workers", "2"]) == 1
    killer.join()
    captured = capsys.readouterr()
    assert "unfinished" in captured.err
    assert "oldest" in captured.err
    kept = len(results(tmp_path / "rl"))
    assert 0 < kept < len(alone)
    assert main([*options, "--out", str(tmp_path / "rl")]) == 0
    assert capsys.readouterr().out.count("kept from an earlier run") == kept
    assert results(tmp_path / "rl") == alone


@pytest.mark.slow
def test_two_ranks_of_torchrun_share_the_cells_and_a_killed_one_costs_only_its_own(options, alone, tmp_path):
    out = tmp_path / "rl"
    script = [str(REPOSITORY / "evaluations" / "rl.py"), *options, "--out", str(out)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*more: str) -> subprocess.Popen:
        log = (tmp_path / "log").open("w")
        command = [*launch, "--master-port", "0", *more, *script]
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)

    killed = start()
    wait_for(out / "rows.jsonl", lines=1, process=killed)
    ranks = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    assert killed.wait(timeout=120) != 0
    kept = (out / "rows.jsonl").read_bytes()
    assert 0 < len(results(out)) < len(alone)
    again = start()
    assert again.wait(timeout=200) == 0, (tmp_path / "log").read_text()
    assert (out / "rows.jsonl").read_bytes().startswith(kept)
    assert results(out) == alone
    log = (tmp_path / "log").read_text()
    assert log.count("kept from an earlier run") == kept.count(b"\n")
    assert log.count("Another process leads") == 1
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_two_commands_at_once_in_one_folder_play_every_cell_once(options, alone, tmp_path):
    command = [sys.executable, str(REPOSITORY / "evaluations" / "rl.py"), *options, "--out", str(tmp_path / "rl")]
    both = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert results(tmp_path / "rl") == alone
    # one of them draws the tables; one that starts when the other has ended draws them again
    assert any("report  " in output for output in outputs)
