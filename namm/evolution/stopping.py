"""SIGTERM and Ctrl-C ask a run to stop at the next good place; asked twice, it stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals() -> Iterator[list[str]]:
    """A list that gets the name of the first SIGINT or SIGTERM; a second one raises KeyboardInterrupt at once."""
    stopped: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped:
            raise KeyboardInterrupt(f"evolution stopped by a second {signal.Signals(number).name}")
        stopped.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stopped
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
