"""How a point of a contract comes out: it does not hold, or it does not concern what is tried."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from kdcli.errors import summarize_error

# Between two ways to compute the same in float32.
RELATIVE, ABSOLUTE = 1e-4, 1e-5
# Characters of a reason; TensorFlow's own go on for pages in one line.
_LONGEST = 100


class ContractViolation(Exception):
    """The point does not hold; the text says what was found."""


class NotApplicable(Exception):
    """The point does not concern it; the text says why."""


def require_equal(found: Any, expected: Any, otherwise: str) -> None:
    """Two computations of one value agree to rounding.

    Raises:
        Broken: with both values.
    """
    ours, theirs = np.asarray(found, "float64"), np.asarray(expected, "float64")
    sizes = np.abs(theirs[np.isfinite(theirs)])
    bound = RELATIVE * float(np.max(sizes, initial=0.0)) + ABSOLUTE
    # What is no number on both sides is the same; that it is none, another point tells.
    with np.errstate(invalid="ignore"):
        alike = ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=0, atol=bound, equal_nan=True)
    if not alike:
        raise ContractViolation(f"{otherwise}: {format_value(ours)} against {format_value(theirs)}")


def largest_magnitude(slopes: list[Any]) -> float:
    """The largest size of any entry of gradients; 0 where there are none, infinite where one is no number."""
    sizes = [np.abs(np.asarray(slope, "float64")) for slope in slopes if slope is not None]
    return max((float(np.max(np.where(np.isnan(size), np.inf, size))) for size in sizes), default=0.0)


def format_value(value: Any) -> str:
    """Numbers in one short line."""
    return np.array2string(np.asarray(value), precision=4, threshold=6, edgeitems=2, separator=", ")


def describe_error(error: Exception) -> str:
    """The class of an error and its first sentence."""
    sentence = re.split(r"(?<=[.!?;])\s", summarize_error(error))[0]
    if len(sentence) > _LONGEST:
        sentence = f"{sentence[:_LONGEST].rsplit(' ', 1)[0]} ..."
    return f"{type(error).__name__}: {sentence}"
