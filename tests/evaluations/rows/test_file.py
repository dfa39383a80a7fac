"""rows.jsonl under several writers, killed writers and full disks."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from evaluations.experiment.claims import Claims
from evaluations.rows.file import RowsFile, UnfinishedError

FORK = multiprocessing.get_context("fork")


def row(key: object, **content: object) -> dict:
    return {"key": str(key), **content}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write_many(path: Path, writer: int) -> None:
    rows = RowsFile(path)
    for number in range(40):
        mine, shared = row(f"{writer}-{number}", filler="x" * 3000 * (number % 3)), row(f"shared-{number}")
        rows.append([mine, shared])


def test_writers_at_the_same_time_lose_nothing_and_write_nothing_twice(tmp_path):
    path = tmp_path / "rows.jsonl"
    writers = [FORK.Process(target=_write_many, args=(path, writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    reader, seen = RowsFile(path), []
    while any(writer.is_alive() for writer in writers):
        seen += reader.read_new()
    seen += reader.read_new()
    expected = {f"{writer}-{number}" for writer in (0, 1, 2, "shared") for number in range(40)}
    assert sorted(found["key"] for found in lines(path)) == sorted(expected)
    assert seen == lines(path)


def test_what_a_killed_writer_left_is_moved_aside_by_the_next_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    first, second = RowsFile(path), RowsFile(path)
    first.append([row(0)])
    with path.open("ab") as stream:
        stream.write(b'{"key": "1", "episo')
    with pytest.warns(UserWarning, match=r"moved to rows\.damaged"):
        second.append([row(2)])
    assert first.read_new() == [row(2)]
    assert lines(path) == [row(0), row(2)]
    assert (tmp_path / "rows.damaged").read_bytes() == b'{"key": "1", "episo\n'


def test_a_write_that_does_not_fit_is_taken_back_whole(tmp_path):
    """The limit on the size of files makes the operating system accept a part of the write and refuse the rest."""
    path = tmp_path / "rows.jsonl"
    rows = RowsFile(path)
    rows.append([row(0)])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(UnfinishedError, match="make room"):
            rows.append([row(1), row(2, filler="x" * 200)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    rows.append([row(1)])
    assert lines(path) == [row(0), row(1)]


def test_a_file_that_somebody_emptied_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = RowsFile(path)
    rows.append([row(0), row(1)])
    path.write_text(json.dumps(row(2)) + "\n")
    assert rows.read_new() == [row(2)]
    path.unlink()
    assert rows.read_new() == []
    rows.append([row(3)])
    assert lines(path) == [row(3)]


def _claim_and_wait(folder: Path, told) -> None:
    claims = Claims(folder)
    told.send(claims.take(["a" * 16, "b" * 16]))
    signal.pause()


def test_a_claim_is_exclusive_and_ends_with_its_process(tmp_path):
    ours, theirs = FORK.Pipe()
    other = FORK.Process(target=_claim_and_wait, args=(tmp_path, theirs))
    other.start()
    assert ours.recv() is True
    with Claims(tmp_path) as claims:
        assert not claims.take(["c" * 16, "b" * 16])
        assert claims.take(["c" * 16])
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        assert claims.take(["c" * 16, "b" * 16])


def _take(folder: Path, keys: list[str], told) -> None:
    with Claims(folder) as claims:
        told.send(claims.take(keys))


@pytest.mark.parametrize(("ending", "free"), [("release", True), ("leave", True), ("keep", False)])
def test_what_is_given_back_can_be_taken_and_a_failed_take_keeps_nothing(tmp_path, ending, free):
    claims = Claims(tmp_path)
    assert claims.take(["a" * 16])
    if ending == "release":
        claims.release(["a" * 16])
    elif ending == "leave":
        claims.__exit__(None, None, None)
    ours, theirs = FORK.Pipe()
    other = FORK.Process(target=_take, args=(tmp_path, ["b" * 16, "a" * 16], theirs))
    other.start()
    assert ours.recv() is free
    other.join()
