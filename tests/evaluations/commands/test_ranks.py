"""A command starts its ranks by itself: the same bits as one process, one message for a mistake, an orderly end."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from evaluations import evolve
from evaluations.commands.ranks import Launch
from namm.evolution.checkpoint import load_state
from namm.evolution.loop import evolve as evolve_cheaply
from tests.evaluations.commands.rank_worlds import mistaken, world
from tests.namm.evolution_worlds import CONFIG, PARAMS, fitness, outcome, validate, wait_for

RESUME = "the same command continues"
MANY = torch.cuda.device_count() + 2
"""Ranks, more than there are GPUs."""


def assert_undisturbed(folder: Path, alone: Path) -> None:
    """As if one process had never been disturbed."""
    evolve_cheaply(fitness, torch.zeros(PARAMS), CONFIG, alone, validate=validate)
    assert outcome(folder)[0] == outcome(alone)[0]
    tensors = load_state(alone)[0]
    assert all(torch.equal(value, tensors[name]) for name, value in load_state(folder)[0].items())


@pytest.mark.slow
def test_asked_to_stop_the_ranks_finish_the_generation_and_one_process_continues(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def stop() -> None:
        wait_for(lambda: (tmp_path / "two" / "history.jsonl").exists())
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        Launch(ranks=2).run(world, tmp_path / "two", 0.1, resume=RESUME)
    stopper.join()
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert "OMP_NUM_THREADS" not in os.environ
    said = capfd.readouterr()
    assert said.err.count("evolution stopped by SIGTERM") == 1
    assert sorted(said.out.splitlines()) == ["rank 0 of 2, threads: 1", "rank 1 of 2, threads: 1"]
    assert 1 <= load_state(tmp_path / "two")[1]["search"]["generation"] < 12
    world(tmp_path / "two")
    assert_undisturbed(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
def test_a_mistake_that_one_rank_finds_is_told_once_and_not_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        Launch(ranks=2, max_restarts=3).run(mistaken, tmp_path, resume=RESUME)
    assert ended.value.code == 2
    assert capfd.readouterr().err == "error: expected another setting, found this one; change it.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempt-0-of-0", "attempt-0-of-1"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_in_words_or_starts_it_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "kill-rank-1").touch()
    with pytest.raises(SystemExit) as ended:
        Launch(ranks=2).run(world, tmp_path / "two", resume=RESUME)
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert "found that rank 1 was killed (SIGKILL)" in said
    assert "Traceback" not in said
    assert load_state(tmp_path / "two")[1]["search"]["generation"] == 3
    Launch(ranks=2, max_restarts=1).run(world, tmp_path / "two", resume=RESUME)
    assert_undisturbed(tmp_path / "two", tmp_path / "alone")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ranks", "0"], "--ranks: expected at least 1, found 0"),
        (["--max-restarts", "-1"], "--max-restarts: expected at least 0, found -1"),
        (["--ranks", str(MANY), "--device", "cuda"], f"expected a GPU for each of {MANY} ranks"),
        (["--ranks", "2", "--threads", "0"], "--threads: expected at least 1, found 0"),
        (["--ranks", "2", "--prompts", "0"], "prompts: expected at least 1, found 0"),
        (["--ranks", "2", "--intervals", "20"], "use 16 or 32"),
        (["--ranks", "2", "--optimizer", "cmaes-isotropc"], "Did you mean 'cmaes-isotropic'"),
        (["--ranks", "2", "--start", "nowhere/at/all"], "nowhere/at/all/config.json, but the file does not exist"),
        (["--ranks", "2", "--model", "./nowhere"], "Expected a causal language model"),
    ],
)
def test_what_is_wrong_is_told_before_a_process_starts(
    options: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evolve.main([*options, "--out", str(tmp_path / "run"), "--wandb", "disabled"]) == 2
    found = capfd.readouterr()
    assert said in found.err
    assert found.out == ""
    assert not (tmp_path / "run").exists()


def test_ranks_within_ranks_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert evolve.main(["--ranks", "2"]) == 2
    assert "found rank 3 of 4" in capsys.readouterr().err
    assert Launch().needed is False
