"""Every command ends the same way: one line and an exit code, whatever stops it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluations.commands.exit import exit_code
from evaluations.rows.file import UnfinishedError
from namm.errors import ConfigError

ROOT = Path(__file__).parents[3]


def _raise(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("pass another --out"), 2, "error: pass another --out"),
        (UnfinishedError("3 cells are unfinished"), 1, "error: 3 cells are unfinished"),
        (OSError(errno.ENOSPC, "No space left on device", "rows.jsonl"), 1, "make room"),
        (KeyboardInterrupt(), 130, "Interrupted: go on with x"),
        (KeyboardInterrupt("saved in runs"), 130, "Interrupted: saved in runs"),
        (SystemExit(2), 2, ""),
    ],
)
def test_what_stops_a_command_is_one_line_and_an_exit_code(capsys, error, code, said) -> None:
    assert exit_code(_raise(error), "go on with x") == code
    assert said in capsys.readouterr().err


def test_a_polite_kill_is_an_interruption_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert exit_code(lambda: os.kill(os.getpid(), signal.SIGTERM), "") == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bug_keeps_its_traceback(monkeypatch) -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(_raise(ZeroDivisionError()), "")
    with pytest.raises(PermissionError):
        exit_code(_raise(PermissionError(errno.EACCES, "denied")), "")
    monkeypatch.setenv("NAMM_DEBUG", "1")
    with pytest.raises(ConfigError):
        exit_code(_raise(ConfigError("wrong")), "")


def test_a_path_that_is_something_else_is_one_line(capsys, tmp_path) -> None:
    """A file where a folder is meant, a folder where a file is meant, and neither."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    for work in (
        lambda: (tmp_path / "file" / "rows.jsonl").open(),
        lambda: tmp_path.read_text(encoding="utf-8"),
        lambda: (tmp_path / "missing").read_text(encoding="utf-8"),
        lambda: (tmp_path / "file").mkdir(),
    ):
        assert exit_code(work, "") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: Expected another kind of file or folder at " + str(tmp_path))
        assert said.count("\n") == 1


COMMANDS = (
    "evaluations.rl", "evaluations.text", "evaluations.evolve", "evaluations.data", "evaluations.dashboard",
    "modalities.conformance", "modalities.conformance.survey",
)  # fmt: skip
STARTED = """
import gc, os, runpy, sys
import {imports}
gc.freeze()  # what is shared is not copied to be collected
for command in {commands}:
    if os.fork() == 0:
        sys.argv = [command, "--help"]
        print("\\n" + command, file=sys.stderr, flush=True)
        runpy.run_module(command, run_name="__main__", alter_sys=True)
        break
    os.wait()
"""
"""Every command in a process of its own, whose imports are those of the one that it is forked from."""


@pytest.mark.slow
def test_help_into_a_pipe_that_is_closed_is_no_traceback() -> None:
    program = STARTED.format(imports=", ".join(name for name in COMMANDS if "conf" not in name), commands=COMMANDS)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        told = running.stderr.read().decode()
    assert running.returncode == 0
    assert [line for line in told.splitlines() if line in COMMANDS] == list(COMMANDS)
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
