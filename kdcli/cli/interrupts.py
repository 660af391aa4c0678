"""Ctrl-C, SIGTERM and `--max-time` as one callable that gives the exit code to stop with."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from kdcli.errors import Interrupted, WorkerLostError


class Stop:
    """Gives None, 130 or 143 when called. A second signal ends the process at once.

    Args:
        seconds: time limit; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._code: int | None = None

    def __call__(self) -> int | None:
        """The exit code to stop with, or None to go on."""
        if self._code is None and self._deadline is not None and time.monotonic() >= self._deadline:
            return 143
        return self._code

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; exit on the second."""
        if self._code is not None:
            raise SystemExit(self._code)
        self._code = 128 + number


@contextmanager
def catch_interrupts(seconds: float | None, *, dry_run: bool = False) -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM while the block runs.

    Args:
        seconds: time limit; None for no limit.
        dry_run: leave the signals alone; a dry run has nothing to save, so they end it at once.
    """
    stop = Stop(seconds)
    if dry_run:
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, stop.handle_signal)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def make_resume_command(arguments: Sequence[str], error: Interrupted | WorkerLostError) -> str:
    """The command that continues what was interrupted or lost a worker."""
    import shlex

    words = [word for word in arguments if word != "--overwrite"]
    if error.run is not None:
        has_out = any(word == "--out" or word.startswith("--out=") for word in words)
        words += [] if has_out else ["--out", str(error.run)]
        words += [] if "--resume" in words else ["--resume"]
    return shlex.join(["kd", *words])
