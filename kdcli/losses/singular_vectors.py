"""Singular vectors: how the main directions of one layer's channels relate to those of the next layer."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.directions import leading_directions, main_directions
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.vectors import flatten_positions
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.tensors import Tensor

# Number of the student's directions, beyond k, that a teacher's direction is compared with.
_MORE = 3


class SingularVectors(FeatureLoss):
    """Sum over channels i, j and k vectors of (R(student) − R(teacher))², R = exp(−(vᵢ − next layer's vⱼ)² / 8).

    v are the first k right singular vectors of a layer as a matrix (positions, channels), times the teacher's
    singular values, scaled to length 1. Each of the teacher's vectors is compared with the nearest of the
    student's first k + 3 vectors, with matching sign. Consecutive layers are compared and summed.

    R depends on the signs of the teacher's vectors, which a decomposition leaves open. The published code uses the
    signs that LAPACK returns, as does `signs: lapack`, on the CPU and without XLA; another build of LAPACK may
    return other signs. With `largest`, each vector's largest entry is positive, on any device; `lapack` takes
    about seven times as long.

    Shapes: lists of at least two features (batch, ..., channels), equal channels on both sides → (batch,).

    Args:
        k: number of singular vectors of each layer; no layer may have fewer positions or channels.
        signs: `lapack` or `largest`.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("singular_vectors", k=2).k
        2
    """

    known_as: ClassVar[str] = "KD-SVD"
    paper: ClassVar[str] = "Lee, Kim & Song 2018, arXiv:1807.06819"
    axes: ClassVar[tuple[int, ...]] = (3, 2)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    least_pairs: ClassVar[int] = 2
    equal: ClassVar[tuple[str, ...]] = ("channels",)
    shape_text: ClassVar[str] = "student, teacher lists of (batch, ..., channels) → (batch,)"

    kind: Literal["singular_vectors"] = "singular_vectors"
    k: Annotated[int, Field(ge=1)] = 1
    signs: Literal["lapack", "largest"] = "lapack"

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the distance of the vectors' relations, per example."""
        layers = []
        for feature, target in pair_features(student, teacher, least=self.least_pairs, equal_channels=True):
            ours, theirs = self._to_matrix(feature), self._to_matrix(ops.stop_gradient(target))
            values, wanted = main_directions(theirs, self.k, signs=self.signs)
            found = _align(leading_directions(ours, self.k + _MORE), wanted)
            layers.append((found * values[:, None, :], wanted * values[:, None, :]))
        total = 0.0
        for (ours, theirs), (our_next, their_next) in pairwise(layers):
            difference = _flow(ours, our_next) - _flow(theirs, their_next)
            total = total + ops.sum(ops.square(difference), axis=(1, 2, 3))
        return total

    def _to_matrix(self, feature: Tensor) -> Tensor:
        matrix = flatten_positions(feature)
        most = min(side for side in matrix.shape[1:] if side is not None)
        if most < self.k:
            raise ValueError(
                f"k: a feature of shape {tuple(feature.shape[1:])} has {most} singular vectors (got k={self.k}; "
                f"expected at most {most})"
            )
        return matrix


def _align(vectors: Tensor, wanted: Tensor) -> Tensor:
    """For each target vector, the nearest of the vectors with matching sign: (batch, channels, k)."""
    cosines = ops.stop_gradient(ops.einsum("bcn,bck->bnk", vectors, wanted))
    chosen = ops.one_hot(ops.argmax(ops.abs(cosines), axis=1), cosines.shape[1], axis=1, dtype=cosines.dtype)
    return ops.matmul(vectors, chosen * ops.sign(cosines))


def _flow(layer: Tensor, following: Tensor) -> Tensor:
    """Relations (batch, channels, channels of the next layer, k)."""
    return ops.exp(-ops.square(layer[:, :, None, :] - following[:, None, :, :]) / 8.0)
