"""Asking what takes only one batch size, or less than everything at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

# Examples that are asked at once where any number can be.
CHUNK = 256


class Runner(Protocol):
    """An exported file in its own runtime."""

    runtime: str
    threads: int
    batch: int | None

    def answer(self, batch: np.ndarray) -> np.ndarray:
        """Answers (n, ...) in float32 to examples (n, ...), as many as there are."""
        ...

    def time_block(self, requests: list[np.ndarray]) -> np.ndarray:
        """Nanoseconds (int64) of each request, from host array to host array."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def in_batches(ask: Callable[[np.ndarray], np.ndarray], examples: np.ndarray, *, size: int | None) -> np.ndarray:
    """The answers to all examples, batch by batch.

    Args:
        ask: answers a batch.
        size: the only batch size it takes; the last batch is filled up with its own last example. None: any.
    """
    answers = []
    for start in range(0, len(examples), size or CHUNK):
        batch = examples[start : start + (size or CHUNK)]
        missing = (size or len(batch)) - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)]) if missing else batch
        answers.append(ask(filled)[: len(batch)])
    return np.concatenate(answers)


def time_in_batches(
    ask: Callable[[np.ndarray], np.ndarray], requests: list[np.ndarray], *, size: int | None
) -> np.ndarray:
    """Nanoseconds (int64) of each request, one after the other, answered as `in_batches` does."""
    taken = np.empty(len(requests), np.int64)
    for number, request in enumerate(requests):
        began = time.perf_counter_ns()
        in_batches(ask, request, size=size)
        taken[number] = time.perf_counter_ns() - began
    return taken
