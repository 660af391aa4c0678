"""Features as vectors: flattened or of unit length, and the distances between the examples of a batch."""

from __future__ import annotations

import math

from kdcli.lazy import keras, ops
from kdcli.tensors import Tensor

# Shorter vectors are divided by this value instead of their length, as in the published losses.
MIN_LENGTH = 1e-12
# The square of the square of a larger value overflows float32.
_MAX_SIZE = 1e4


def flatten_examples(feature: Tensor) -> Tensor:
    """One vector per example: (batch, ...) → (batch, size)."""
    sides = tuple(feature.shape[1:])
    size = -1 if None in sides else math.prod(sides)
    return ops.reshape(feature, (ops.shape(feature)[0], size))


def flatten_positions(feature: Tensor) -> Tensor:
    """One row of channels per position: (batch, ..., channels) → (batch, positions, channels)."""
    middle = tuple(feature.shape[1:-1])
    number = -1 if None in middle else math.prod(middle)
    return ops.reshape(feature, (ops.shape(feature)[0], number, feature.shape[-1]))


def limit_size(values: Tensor, axes: tuple[int, ...] | None = None, *, largest: float = _MAX_SIZE) -> Tensor:
    """Scale values down so that none exceeds `largest`; for formulas that are independent of the scale.

    Args:
        values: a tensor of any shape.
        axes: axes over which values share a scale; all axes by default.
        largest: upper bound of the absolute values.
    """
    size = ops.stop_gradient(ops.max(ops.abs(values), axis=axes, keepdims=True))
    return values * (largest / ops.maximum(size, largest))


def normalize_length(vectors: Tensor, axis: int = -1) -> Tensor:
    """Divide vectors by their length along an axis, or by 1e-12 where they are shorter.

    Where they are shorter, the published gradient is about 1e12 and meaningless; here it is 0.
    """
    # Divided by the largest entry first, so that no square overflows; the direction is unchanged.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=axis, keepdims=True))
    long = largest > MIN_LENGTH
    scaled = vectors / ops.where(long, largest, ops.ones_like(largest))
    squares = ops.where(long, ops.sum(scaled * scaled, axis=axis, keepdims=True), ops.ones_like(largest))
    return ops.where(long, scaled * ops.rsqrt(squares), ops.stop_gradient(vectors / MIN_LENGTH))


def safe_sqrt(squares: Tensor) -> Tensor:
    """The square root, with a gradient of 0 at 0."""
    some = squares > 0
    return ops.where(some, ops.sqrt(ops.where(some, squares, ops.ones_like(squares))), ops.zeros_like(squares))


def centred_products(vectors: Tensor) -> Tensor:
    """Scalar products of all pairs, relative to the centre of the batch: (batch, size) → (batch, batch).

    Distances and angles are independent of the origin, and most precise relative to the centre.
    """
    centred = vectors - ops.stop_gradient(ops.mean(vectors, axis=0, keepdims=True))
    return ops.matmul(centred, ops.transpose(centred))


def squared_distances(products: Tensor) -> Tensor:
    """Squared distances of all pairs, from their scalar products: (batch, batch).

    Distances below the rounding error of the float type are 0, with a gradient of 0.
    """
    squares = ops.diagonal(products)
    both = squares[:, None] + squares[None, :]
    distances = both - 2.0 * products
    hidden = 8.0 * machine_epsilon(products) * both
    return ops.where(distances > hidden, distances, ops.zeros_like(distances))


def machine_epsilon(tensor: Tensor) -> float:
    """Distance from 1 to the next number of the tensor's float type."""
    return 2.0**-52 if keras.backend.standardize_dtype(tensor.dtype) == "float64" else 2.0**-23
