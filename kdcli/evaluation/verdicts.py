"""How a point of a contract comes out: it does not hold, or it does not concern what is tried."""

from __future__ import annotations

from typing import Any

import numpy as np

# Between two ways to compute the same in float32.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


class Broken(Exception):
    """The point does not hold; the text says what was found."""


class Skipped(Exception):
    """The point does not concern it; the text says why."""


def same(found: Any, expected: Any, otherwise: str) -> None:
    """Two computations of one value agree to rounding.

    Raises:
        Broken: with both values.
    """
    ours, theirs = np.asarray(found, "float64"), np.asarray(expected, "float64")
    bound = RELATIVE * float(np.max(np.abs(theirs))) + ABSOLUTE
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=0, atol=bound):
        raise Broken(f"{otherwise}: {shown(ours)} against {shown(theirs)}")


def largest_of(slopes: list[Any]) -> float:
    """The largest size of any entry of gradients; 0 where there are none, infinite where one is no number."""
    sizes = [np.abs(np.asarray(slope, "float64")) for slope in slopes if slope is not None]
    return max((float(np.max(np.where(np.isnan(size), np.inf, size))) for size in sizes), default=0.0)


def shown(value: Any) -> str:
    """Numbers in one short line."""
    return np.array2string(np.asarray(value), precision=4, threshold=6, edgeitems=2, separator=", ")
