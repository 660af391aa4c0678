"""Similarity preserving: examples that are similar for the teacher become similar for the student."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.vectors import flatten_examples, limit_size, normalize_length
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Weight
from kdcli.tensors import Tensor


class SimilarityPreserving(FeatureLoss):
    """Mean over all pairs of examples of (S(student) − S(teacher))², S = F · Fᵀ with rows of length 1.

    F are the features of a batch, one flattened example per row. Pairs of layers are summed.

    Shapes: student, teacher (batch, ...), of any sizes → a scalar.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("similarity_preserving")
        >>> float(loss(student=[[1.0], [0.0]], teacher=[[1.0, 0.0], [0.0, 1.0]]))
        0.25
    """

    known_as: ClassVar[str] = "SP"
    paper: ClassVar[str] = "Tung & Mori 2019, arXiv:1907.09682"
    notes: ClassVar[tuple[str, ...]] = (
        "Differs from `relational`: inner products instead of distances and angles.",
    )
    whole_batch: ClassVar[bool] = True
    least_batch: ClassVar[int] = 2
    shape_text: ClassVar[str] = "student, teacher (batch, ...), or lists of them → a scalar"

    kind: Literal["similarity_preserving"] = "similarity_preserving"
    weight: Weight = 3000.0

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the distance of the similarities of a batch."""
        total = 0.0
        for feature, target in pair_features(student, teacher):
            difference = _similarities(feature) - _similarities(ops.stop_gradient(target))
            total = total + ops.mean(ops.square(difference))
        return total


def _similarities(feature: Tensor) -> Tensor:
    vectors = limit_size(flatten_examples(feature))
    return normalize_length(ops.matmul(vectors, ops.transpose(vectors)))
