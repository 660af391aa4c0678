"""Directions: vectors of length 1."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import ops


def unit(vectors: Any) -> Any:
    """Vectors divided by their L2 norm over the last axis; a zero vector stays zero, with a finite gradient.

    The published losses divide by the bare norm: the value is theirs wherever that is defined.
    """
    # By the largest entry first, so that no square overflows or vanishes; directions do not depend on it.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=-1, keepdims=True))
    vectors = vectors / ops.where(largest > 0, largest, 1.0)
    squares = ops.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.where(squares > 0, squares, 1.0))
