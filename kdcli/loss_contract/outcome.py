"""How a check ends: the contract is violated, or the check does not apply."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from kdcli.errors import summarize_error
from kdcli.tensors import Tensor

# Tolerances between two ways to compute the same value in float32.
RELATIVE, ABSOLUTE = 1e-4, 1e-5
# Characters of a reason; those of TensorFlow can be pages long.
_MAX_REASON_CHARACTERS = 100


class ContractViolation(Exception):
    """The loss violates the contract; the text says how."""


class NotApplicable(Exception):
    """The check does not apply to the loss; the text says why."""


def require_equal(found: Tensor, expected: Tensor, otherwise: str) -> None:
    """Require that two computations of one value agree up to rounding.

    Args:
        found: the computed value.
        expected: the value that it should be.
        otherwise: what is wrong if they differ.

    Raises:
        ContractViolation: the values differ.
    """
    ours, theirs = np.asarray(found, "float64"), np.asarray(expected, "float64")
    sizes = np.abs(theirs[np.isfinite(theirs)])
    bound = RELATIVE * float(np.max(sizes, initial=0.0)) + ABSOLUTE
    # NaN in both is equal here; another check finds values that are not finite.
    with np.errstate(invalid="ignore"):
        alike = ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=0, atol=bound, equal_nan=True)
    if not alike:
        raise ContractViolation(f"{otherwise}: got {format_value(ours)}, expected {format_value(theirs)}")


def largest_magnitude(gradients: Sequence[Tensor | None]) -> float:
    """The largest absolute entry of some gradients; 0 without gradients, infinite if an entry is NaN."""
    sizes = [np.abs(np.asarray(gradient, "float64")) for gradient in gradients if gradient is not None]
    return max((float(np.max(np.where(np.isnan(size), np.inf, size))) for size in sizes), default=0.0)


def format_value(value: Tensor) -> str:
    """An array in one short line."""
    return np.array2string(np.asarray(value), precision=4, threshold=6, edgeitems=2, separator=", ")


def describe_error(error: Exception) -> str:
    """The class of an error and its first sentence."""
    sentence = re.split(r"(?<=[.!?;])\s", summarize_error(error))[0]
    if len(sentence) > _MAX_REASON_CHARACTERS:
        sentence = f"{sentence[:_MAX_REASON_CHARACTERS].rsplit(' ', 1)[0]} ..."
    return f"{type(error).__name__}: {sentence}"
