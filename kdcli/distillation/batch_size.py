"""How many examples a teacher answers at once: doubled while that pays."""

from __future__ import annotations

from math import prod

import psutil

from kdcli.models.network import Network

FIRST, LARGEST = 32, 1024
# What is used where so few answers are wanted that finding a better one takes longer than it saves.
SETTLED, FEW = 256, 4096
# By how much the rate must grow for the next size to be tried.
GROWTH = 1.05
# Batches of a size that are timed; the first one of a size prepares and is not.
_TIMED = 3
# Sizes in a row that may be no faster: the first one may have been disturbed.
_IN_VAIN = 2


class BatchSize:
    """Found while answering, so that no answer is wasted: each size is timed on batches that are wanted anyway.

    `size` is what the next batch should have.

    Args:
        wanted: this size, and no other; None finds one.
        answers: how many are wanted in all.
        bytes_each: what an example takes while it is answered.
    """

    def __init__(self, wanted: int | None, *, answers: int, bytes_each: int) -> None:
        self._bytes_each = max(bytes_each, 1)
        self._times: list[float] = []
        self._best = (0.0, FIRST)
        self._in_vain = 0
        self.searching = wanted is None and answers >= FEW
        self.size = wanted or (FIRST if self.searching else SETTLED)
        if wanted is None:
            self.size = min(self.size, self._fitting())

    def took(self, examples: int, seconds: float) -> None:
        """A batch was answered."""
        if not self.searching or examples != self.size:
            return
        self._times.append(seconds)
        if len(self._times) <= _TIMED:
            return
        # Whatever else the machine does can only slow a batch down: the fastest one is what the size can do.
        rate = self.size / max(min(self._times[1:]), 1e-9)
        self._times = []
        if rate > GROWTH * self._best[0]:
            self._best, self._in_vain = (rate, self.size), 0
        else:
            self._in_vain += 1
        if self._in_vain == _IN_VAIN or 2 * self.size > min(LARGEST, self._fitting()):
            self.searching = False
            self.size = self._best[1]
        else:
            self.size *= 2

    def ran_out_of_memory(self, examples: int) -> bool:
        """A batch did not fit: go on with half of it; False where nothing smaller is left."""
        self.searching = False
        self.size = max(1, examples // 2)
        return examples > 1

    def _fitting(self) -> int:
        """How many examples fit into half of the free memory, at least one."""
        return max(1, psutil.virtual_memory().available // 2 // self._bytes_each)


def bytes_of_an_example(teacher: Network) -> int:
    """What one example takes while it is answered, at most: its input and everything between, in float32."""
    shapes = [spec.shape for spec in teacher.inputs] + list(teacher.taps.values()) + [teacher.output_shape]
    return 4 * sum(prod(side or 1 for side in shape) for shape in shapes)
