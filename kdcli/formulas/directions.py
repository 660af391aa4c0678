"""Main directions of matrices: right singular vectors, with a gradient that stays finite."""

from __future__ import annotations

from typing import Any

from kdcli.formulas.rows import limit_size, normalize_length
from kdcli.lazy import keras, ops, tf

# Eigenvalues closer than this share of the largest count as equal.
NEAR = {"float64": 1e-8, "float32": 1e-5}


def main_directions(matrices: Any, count: int, *, signs: str) -> tuple[Any, Any]:
    """The first singular values, of length 1 together, and right singular vectors; without gradient.

    Args:
        matrices: (batch, rows, columns).
        count: how many.
        signs: `lapack`, as numpy gives them, or `largest`: each vector's largest entry is positive.

    Returns:
        Values (batch, count) and vectors (batch, columns, count).
    """
    matrices = limit_size(matrices, (1, 2))
    if signs == "lapack":
        vectors = tf.numpy_function(_lapack, [matrices, count], matrices.dtype, stateful=False)
        vectors = ops.reshape(vectors, (-1, matrices.shape[-1], count))
    else:
        vectors = leading_directions(matrices, count)
        peak = ops.argmax(ops.abs(vectors), axis=1)
        peak = ops.one_hot(peak, vectors.shape[1], axis=1, dtype=vectors.dtype)
        turned = ops.sum(vectors * peak, axis=1, keepdims=True) < 0
        vectors = ops.where(turned, -vectors, vectors)
    lengths = ops.sqrt(ops.sum(ops.square(ops.matmul(matrices, vectors)), axis=1))
    return ops.stop_gradient(normalize_length(lengths)), ops.stop_gradient(vectors)


def _lapack(matrices: Any, count: Any) -> Any:
    import numpy as np

    if not np.isfinite(matrices).all():
        # LAPACK would fail without naming the term: a loss that is not a number does.
        return np.full((len(matrices), matrices.shape[-1], count), np.nan, matrices.dtype)
    # In float64, so that the signs do not depend on the float type.
    _, _, rows = np.linalg.svd(matrices.astype("float64"), full_matrices=False)
    return np.ascontiguousarray(rows[:, :count].swapaxes(1, 2)).astype(matrices.dtype)


def leading_directions(matrices: Any, count: int) -> Any:
    """The first right singular vectors, or as many as there are: (batch, rows, columns) → (batch, columns, count).

    Their signs are open.
    """
    tall, wide = matrices.shape[1:]
    # Scale has no direction, and its square would overflow.
    largest = ops.stop_gradient(ops.max(ops.abs(matrices), axis=(1, 2), keepdims=True))
    matrices = matrices / ops.where(largest > 0, largest, ops.ones_like(largest))
    if tall is None or wide <= tall:
        return _eigenvectors(ops.einsum("brc,brd->bcd", matrices, matrices), min(count, wide))
    # The smaller side costs less to take apart; directions come from their partners on that side.
    partners = _eigenvectors(ops.einsum("brc,bsc->brs", matrices, matrices), min(count, tall))
    return normalize_length(ops.einsum("brc,brn->bcn", matrices, partners), axis=1)


def _eigenvectors(squares: Any, count: int) -> Any:
    """The eigenvectors of symmetric matrices with the largest eigenvalues, as columns."""

    def decompose(squares: Any) -> tuple[Any, Any]:
        values, vectors = ops.eigh(squares)
        leading = ops.flip(vectors, axis=-1)[:, :, :count]

        def gradient(*above: Any, upstream: Any = None) -> Any:
            upstream = above[0] if upstream is None else upstream
            gaps = ops.flip(values, axis=-1)[:, None, :count] - values[:, :, None]
            # Directions of equal values turn freely into each other: what lies closer than this has no gradient
            # that means anything, and its share falls to 0. Elsewhere it is the exact one.
            near = NEAR[keras.backend.standardize_dtype(values.dtype)] * values[:, -1:, None]
            far = ops.abs(gaps) > near
            least = ops.where(near > 0, near, ops.ones_like(near))
            shares = ops.where(far, 1.0 / ops.where(far, gaps, ops.ones_like(gaps)), gaps / least / least)
            turned = ops.matmul(vectors, shares * ops.einsum("bij,bin->bjn", vectors, upstream))
            slope = ops.einsum("bin,bjn->bij", turned, leading)
            return (slope + ops.swapaxes(slope, 1, 2)) / 2.0

        return leading, gradient

    return ops.custom_gradient(decompose)(squares)
