"""No terminal and no pipe costs a result."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = """
import sys
from namm.terminal import any_terminal
from rich.console import Console
with any_terminal():
    print("a – b · 3 × 4 ≥ 5 日\\udcff")
    Console(width=60).print("[bold]score ± 1 → 2[/]")
    sys.stderr.write("done…\\n")
"""


def ran(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(each, marks=pytest.mark.slow) for each in ("latin-1", "cp1252"))]
)
def test_signs_that_a_terminal_lacks_are_written_with_those_it_has(encoding: str) -> None:
    done = ran(COMMAND, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr.decode(encoding)
    told = done.stdout.decode(encoding)
    assert "b" in told
    assert "??" in told
    assert done.stderr.decode(encoding).startswith("done")
    if encoding == "ascii":
        assert told.splitlines() == ["a - b * 3 x 4 >= 5 ??", "score +- 1 -> 2"]


@pytest.mark.slow
def test_utf_8_is_left_as_it_is() -> None:
    done = ran(COMMAND, PYTHONIOENCODING="utf-8")
    assert done.stdout.decode().splitlines() == ["a – b · 3 × 4 ≥ 5 日?", "score ± 1 → 2"]


LONG = """
import sys
from namm.terminal import any_terminal
with any_terminal():
    {work}
"""


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("[print('line', number) for number in range(100_000)]", 141),
        pytest.param("print('short'); sys.exit(0)", 0, marks=pytest.mark.slow),
        pytest.param("sys.exit(3)", 3, marks=pytest.mark.slow),
    ],
)
def test_a_reader_that_leaves_is_no_traceback(work: str, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LONG.format(work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        told = running.stderr.read().decode()
    assert told == ""
    assert running.returncode == code


@pytest.mark.slow
def test_the_broken_pipe_of_somebody_else_is_not_swallowed() -> None:
    done = ran(LONG.format(work="raise BrokenPipeError(32, 'a worker died')"))
    assert done.returncode == 1
    assert b"a worker died" in done.stderr
