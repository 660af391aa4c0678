"""Deviation from the mean, with a gradient that stays small for constant values."""

from __future__ import annotations

from kdcli.lazy import keras, ops
from kdcli.tensors import Tensor

# Relative to the largest value, smaller deviations are rounding errors.
_ROUNDING = {"float32": 1e-6, "float64": 1e-14}


def deviation(values: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """Subtract the mean over an axis; return the result and its norm √Σ of squares, with the axis kept.

    Where the values are constant up to rounding, the norm is 1 instead of 0. A loss that divides by the norm is 0
    there in both cases, but its gradient is as large as the values and not as one over the rounding error.
    """
    centred = values - ops.mean(values, axis=axis, keepdims=True)
    squares = ops.sum(centred * centred, axis=axis, keepdims=True)
    largest = ops.max(ops.abs(values), axis=axis, keepdims=True)
    least = _ROUNDING[keras.backend.standardize_dtype(values.dtype)] * largest
    varies = squares > least * least
    return centred, ops.where(varies, ops.sqrt(ops.where(varies, squares, 1.0)), 1.0)


def standardize_logits(logits: Tensor) -> Tensor:
    """Scale logits to mean 0 and unbiased standard deviation 1 (plus 1e-7) over the last axis."""
    centred, norm = deviation(logits, axis=-1)
    return centred / (norm / max(logits.shape[-1] - 1, 1) ** 0.5 + 1e-7)
