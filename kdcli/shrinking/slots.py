"""Slots: the channels of a model as numbers that can be united or fixed."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

# The slot of a channel that cannot be removed.
FIXED = -1
# The slots along one axis of a tensor or a weight, in order; None where nothing can be removed.
Vector: TypeAlias = np.ndarray | None


class Slots:
    """A union-find structure over slots. United slots are removed together; fixed slots are never removed."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        # Root → why its slots are fixed.
        self._reasons: dict[int, str] = {}

    def make(self, count: int) -> np.ndarray:
        """Make new slots, one for each channel, of shape (count,)."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def unite(self, first: np.ndarray, second: np.ndarray) -> None:
        """Unite two vectors of the same length position by position; a slot united with a fixed one is fixed."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            if FIXED in (one, other):
                self._fix_slot(max(one, other), "it is combined with channels that cannot be removed")
                continue
            one, other = self._find(one), self._find(other)
            if one != other:
                reason = self._reasons.pop(other, None) or self._reasons.get(one)
                self._parents[other] = one
                if reason is not None:
                    self._reasons[one] = reason

    def fix(self, vector: Vector, reason: str) -> None:
        """Fix the slots of a vector; the first reason of each slot stays."""
        for slot in [] if vector is None else np.unique(vector).tolist():
            self._fix_slot(slot, reason)

    def _fix_slot(self, slot: int, reason: str) -> None:
        if slot != FIXED:
            self._reasons.setdefault(self._find(slot), reason)

    def _find(self, slot: int) -> int:
        root = slot
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[slot] != root:
            self._parents[slot], slot = root, self._parents[slot]
        return root

    def find(self, vector: np.ndarray) -> np.ndarray:
        """The representative of each slot; `FIXED` where it is fixed."""
        return np.array([slot if slot == FIXED else self._find_free(slot) for slot in vector.tolist()], dtype=int)

    def _find_free(self, slot: int) -> int:
        root = self._find(slot)
        return FIXED if root in self._reasons else root

    def get_reasons(self, vector: np.ndarray) -> list[str]:
        """Why slots of a vector are fixed, each reason once."""
        roots = {self._find(slot) for slot in vector.tolist() if slot != FIXED}
        return sorted({self._reasons[root] for root in roots if root in self._reasons})
