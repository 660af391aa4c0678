"""How far values lie from their mean, with a gradient that stays small where they do not vary."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import keras, ops

# Deviations up to this share of the largest value are rounding.
ROUNDING = {"float32": 1e-6, "float64": 1e-14}


def deviation(values: Any, *, axis: int) -> tuple[Any, Any]:
    """The values less their mean over an axis, and the norm of that: √Σ of squares, with the axis kept.

    Where the values are constant up to rounding, the norm is 1 instead of 0: a loss that divides by it gives 0
    there either way, and its gradient is of the size of the values, not of one over rounding.
    """
    centred = values - ops.mean(values, axis=axis, keepdims=True)
    squares = ops.sum(centred * centred, axis=axis, keepdims=True)
    largest = ops.max(ops.abs(values), axis=axis, keepdims=True)
    least = ROUNDING[keras.backend.standardize_dtype(values.dtype)] * largest
    varies = squares > least * least
    return centred, ops.where(varies, ops.sqrt(ops.where(varies, squares, 1.0)), 1.0)


def standardize_logits(logits: Any) -> Any:
    """Logits with mean 0 and unbiased standard deviation 1 over the last axis; 1e-7 is added to it."""
    centred, norm = deviation(logits, axis=-1)
    return centred / (norm / max(logits.shape[-1] - 1, 1) ** 0.5 + 1e-7)
