"""Features as vectors: flattened, of length 1, and how far the examples of a batch lie from each other."""

from __future__ import annotations

import math
from typing import Any

from kdcli.lazy import keras, ops

# Below this length the published losses divide by it instead of by the length.
MIN_LENGTH = 1e-12
# Beyond this the square of a square no longer fits into float32.
_MAX_SIZE = 1e4


def flatten_examples(feature: Any) -> Any:
    """One vector for each example: (batch, ...) → (batch, size)."""
    sides = tuple(feature.shape[1:])
    size = -1 if None in sides else math.prod(sides)
    return ops.reshape(feature, (ops.shape(feature)[0], size))


def flatten_positions(feature: Any) -> Any:
    """The channels at each position: (batch, ..., channels) → (batch, positions, channels)."""
    middle = tuple(feature.shape[1:-1])
    number = -1 if None in middle else math.prod(middle)
    return ops.reshape(feature, (ops.shape(feature)[0], number, feature.shape[-1]))


def limit_size(values: Any, axes: tuple[int, ...] | None = None, *, largest: float = _MAX_SIZE) -> Any:
    """Values scaled down where some are beyond `largest`; for formulas that do not depend on the scale.

    Args:
        values: of any shape.
        axes: over which values share a scale; all when left out.
        largest: size that stays.
    """
    size = ops.stop_gradient(ops.max(ops.abs(values), axis=axes, keepdims=True))
    return values * (largest / ops.maximum(size, largest))


def normalize_length(vectors: Any, axis: int = -1) -> Any:
    """Vectors divided by their length along an axis, or by 1e-12 where they are shorter.

    There the published gradient is of the order of 1e12 and says nothing: ours is 0.
    """
    # By the largest entry first, so that no square overflows; directions do not depend on it.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=axis, keepdims=True))
    long = largest > MIN_LENGTH
    scaled = vectors / ops.where(long, largest, ops.ones_like(largest))
    squares = ops.where(long, ops.sum(scaled * scaled, axis=axis, keepdims=True), ops.ones_like(largest))
    return ops.where(long, scaled * ops.rsqrt(squares), ops.stop_gradient(vectors / MIN_LENGTH))


def safe_sqrt(squares: Any) -> Any:
    """The square root, with a gradient of 0 where it is 0."""
    some = squares > 0
    return ops.where(some, ops.sqrt(ops.where(some, squares, ops.ones_like(squares))), ops.zeros_like(squares))


def centred_products(vectors: Any) -> Any:
    """Scalar products of all pairs, measured from the centre of the batch: (batch, size) → (batch, batch).

    Distances and angles do not depend on the origin, and lose fewest digits from the centre.
    """
    centred = vectors - ops.stop_gradient(ops.mean(vectors, axis=0, keepdims=True))
    return ops.matmul(centred, ops.transpose(centred))


def squared_distances(products: Any) -> Any:
    """Squared distances of all pairs, from their products: (batch, batch).

    Where rounding of the float type hides what is between two examples it is 0, with a gradient of 0.
    """
    squares = ops.diagonal(products)
    both = squares[:, None] + squares[None, :]
    distances = both - 2.0 * products
    hidden = 8.0 * machine_epsilon(products) * both
    return ops.where(distances > hidden, distances, ops.zeros_like(distances))


def machine_epsilon(tensor: Any) -> float:
    """Distance from 1 to the next number of the tensor's float type."""
    return 2.0**-52 if keras.backend.standardize_dtype(tensor.dtype) == "float64" else 2.0**-23
