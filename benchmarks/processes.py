"""Processes of their own for ways that use every core."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


@contextmanager
def spawned(work: Callable[..., None], each: Sequence[tuple[Any, ...]]) -> Iterator[list[Connection]]:
    """A process for each tuple of arguments; a connection to each, which is its first argument.

    `work` sends one message when it is ready and ends when it is sent None.
    """
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    for arguments in each:
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, *arguments), daemon=True))
        processes[-1].start()
        connections.append(ours)
    for connection in connections:
        connection.recv()
    try:
        yield connections
    finally:
        for connection, process in zip(connections, processes, strict=True):
            connection.send(None)
            process.join()
