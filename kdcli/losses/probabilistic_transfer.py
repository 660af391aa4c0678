"""Probabilistic transfer: the student keeps each example's distribution over its neighbours."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.vectors import flatten_examples, limit_size, safe_sqrt
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Weight
from kdcli.tensors import Tensor

# Added to lengths and probabilities, as in the published code.
_EPSILON = 1e-7


class ProbabilisticTransfer(FeatureLoss):
    """Mean over all pairs of examples of t · log(t / s), the teacher's and the student's neighbour probabilities.

    The probability of j as a neighbour of i is (1 + cos(i, j)) / 2, divided by its sum over j. Features are
    flattened; pairs of layers are summed.

    Shapes: student, teacher (batch, ...), of any sizes → a scalar.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("probabilistic_transfer")
        >>> float(loss(student=[[1.0], [2.0]], teacher=[[3.0], [4.0]]))
        0.0
    """

    known_as: ClassVar[str] = "PKT"
    paper: ClassVar[str] = "Passalis & Tefas 2018, arXiv:1803.10837"
    # The published code compares the vectors after pooling.
    axes: ClassVar[tuple[int, ...]] = (1, 3, 2)
    whole_batch: ClassVar[bool] = True
    least_batch: ClassVar[int] = 2
    shape_text: ClassVar[str] = "student, teacher (batch, ...), or lists of them → a scalar"

    kind: Literal["probabilistic_transfer"] = "probabilistic_transfer"
    weight: Weight = 30000.0

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the divergence of the neighbourhoods of a batch."""
        total = 0.0
        for feature, target in pair_features(student, teacher):
            ours, theirs = _neighbour_probabilities(feature), _neighbour_probabilities(ops.stop_gradient(target))
            total = total + ops.mean(theirs * (ops.log(theirs + _EPSILON) - ops.log(ours + _EPSILON)))
        return total


def _neighbour_probabilities(feature: Tensor) -> Tensor:
    """Neighbour probabilities (batch, batch); each row sums to 1."""
    vectors = limit_size(flatten_examples(feature), (1,))
    squares = ops.sum(vectors * vectors, axis=-1, keepdims=True)
    # A zero row has no direction: it stays zero, with no gradient, where the published code gives NaN.
    vectors = vectors * ops.where(squares > 0, 1.0 / (safe_sqrt(squares) + _EPSILON), ops.zeros_like(squares))
    cosines = ops.matmul(vectors, ops.transpose(vectors))
    # Rounding may give a cosine below −1.
    similarity = ops.maximum((cosines + 1.0) / 2.0, 0.0)
    return similarity / ops.sum(similarity, axis=-1, keepdims=True)
