"""Every command ends the same way: one line and an exit code, whatever stops it."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from evaluations.commands.exit import exit_code
from evaluations.rows.file import UnfinishedError
from namm.errors import ConfigError


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
