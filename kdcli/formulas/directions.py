"""Right singular vectors of matrices, with a gradient that stays finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdcli.formulas.vectors import limit_size, normalize_length
from kdcli.lazy import keras, ops, tf
from kdcli.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np

# Relative to the largest eigenvalue, eigenvalues with a smaller difference count as equal.
_EQUAL = {"float64": 1e-8, "float32": 1e-5}


def main_directions(matrices: Tensor, count: int, *, signs: str) -> tuple[Tensor, Tensor]:
    """Return the first singular values, scaled to length 1, and right singular vectors, without gradient.

    Args:
        matrices: matrices (batch, rows, columns).
        count: number of singular vectors.
        signs: `lapack` (the signs that numpy returns) or `largest` (each vector's largest entry is positive).

    Returns:
        Values (batch, count) and vectors (batch, columns, count).
    """
    matrices = limit_size(matrices, (1, 2))
    if signs == "lapack":
        vectors = tf.numpy_function(_decompose, [matrices, count], matrices.dtype, stateful=False)
        vectors = ops.reshape(vectors, (-1, matrices.shape[-1], count))
    else:
        vectors = leading_directions(matrices, count)
        peak = ops.argmax(ops.abs(vectors), axis=1)
        peak = ops.one_hot(peak, vectors.shape[1], axis=1, dtype=vectors.dtype)
        turned = ops.sum(vectors * peak, axis=1, keepdims=True) < 0
        vectors = ops.where(turned, -vectors, vectors)
    lengths = ops.sqrt(ops.sum(ops.square(ops.matmul(matrices, vectors)), axis=1))
    return ops.stop_gradient(normalize_length(lengths)), ops.stop_gradient(vectors)


def _decompose(matrices: np.ndarray, count: int) -> np.ndarray:
    import numpy as np

    if not np.isfinite(matrices).all():
        # LAPACK would fail without naming the term. NaN makes the step report it.
        return np.full((len(matrices), matrices.shape[-1], count), np.nan, matrices.dtype)
    # In float64, so that the signs are independent of the float type.
    _, _, rows = np.linalg.svd(matrices.astype("float64"), full_matrices=False)
    return np.ascontiguousarray(rows[:, :count].swapaxes(1, 2)).astype(matrices.dtype)


def leading_directions(matrices: Tensor, count: int) -> Tensor:
    """Return the first right singular vectors: (batch, rows, columns) → (batch, columns, count).

    Fewer than `count` when the matrices have fewer. Their signs are arbitrary.
    """
    tall, wide = matrices.shape[1:]
    # Directions are independent of the scale, and the square of a large matrix would overflow.
    largest = ops.stop_gradient(ops.max(ops.abs(matrices), axis=(1, 2), keepdims=True))
    matrices = matrices / ops.where(largest > 0, largest, ops.ones_like(largest))
    if tall is None or wide <= tall:
        return _eigenvectors(ops.einsum("brc,brd->bcd", matrices, matrices), min(count, wide))
    # The smaller square is cheaper to decompose; its eigenvectors are then mapped to the other side.
    partners = _eigenvectors(ops.einsum("brc,bsc->brs", matrices, matrices), min(count, tall))
    return normalize_length(ops.einsum("brc,brn->bcn", matrices, partners), axis=1)


def _eigenvectors(squares: Tensor, count: int) -> Tensor:
    """The eigenvectors of symmetric matrices with the largest eigenvalues, as columns."""

    def decompose(squares: Tensor) -> tuple[Tensor, Any]:
        values, vectors = ops.eigh(squares)
        leading = ops.flip(vectors, axis=-1)[:, :, :count]

        def gradient(*above: Tensor, upstream: Tensor = None) -> Tensor:
            upstream = above[0] if upstream is None else upstream
            gaps = ops.flip(values, axis=-1)[:, None, :count] - values[:, :, None]
            # Eigenvectors of equal eigenvalues may rotate into each other, so below this gap the gradient has no
            # meaning and is reduced to 0. Elsewhere it is exact.
            near = _EQUAL[keras.backend.standardize_dtype(values.dtype)] * values[:, -1:, None]
            far = ops.abs(gaps) > near
            least = ops.where(near > 0, near, ops.ones_like(near))
            factors = ops.where(far, 1.0 / ops.where(far, gaps, ops.ones_like(gaps)), gaps / least / least)
            turned = ops.matmul(vectors, factors * ops.einsum("bij,bin->bjn", vectors, upstream))
            slope = ops.einsum("bin,bjn->bij", turned, leading)
            return (slope + ops.swapaxes(slope, 1, 2)) / 2.0

        return leading, gradient

    return ops.custom_gradient(decompose)(squares)
