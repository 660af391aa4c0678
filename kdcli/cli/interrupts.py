"""Ctrl-C, SIGTERM and `--max-time` as one question: shall the work stop, and with which exit code?"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Answers None, 130 or 143. The second signal no longer waits: it ends the process at once."""

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self._code: int | None = None

    def __call__(self) -> int | None:
        """The exit code to stop with, or None to go on."""
        if self._code is None and self._until is not None and time.monotonic() >= self._until:
            return 143
        return self._code

    def signalled(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal."""
        if self._code is not None:
            raise SystemExit(self._code)
        self._code = 128 + number


@contextmanager
def interruptible(seconds: float | None, *, dry_run: bool = False) -> Iterator[Stop]:
    """Listen to SIGINT and SIGTERM while the block runs.

    A dry run has nothing to save and asks nobody: there both keep their usual meaning and end it at once.
    """
    stop = Stop(seconds)
    if dry_run:
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    kept = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, stop.signalled)
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
