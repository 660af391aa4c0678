"""Probabilistic transfer: the student keeps each example's distribution over its neighbours."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.matching import pair_features
from kdcli.formulas.rows import flatten_examples, limit_size, safe_sqrt
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Weight

# Added to lengths and probabilities, as in the published code.
TINY = 1e-7


class ProbabilisticTransfer(FeatureLoss):
    """Mean over all pairs of examples of t · log(t / s), the teacher's and the student's neighbour probabilities.

    The probability of j to be next to i is (1 + cos(i, j)) / 2, divided by the sum over j. Features are
    flattened, pairs of layers summed.

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

    def __call__(self, *, student: Any, teacher: Any, **_: Any) -> Any:
        """The divergence of the neighbourhoods of a batch."""
        total = 0.0
        for feature, target in pair_features(student, teacher):
            ours, theirs = _neighbours(feature), _neighbours(ops.stop_gradient(target))
            total = total + ops.mean(theirs * (ops.log(theirs + TINY) - ops.log(ours + TINY)))
        return total


def _neighbours(feature: Any) -> Any:
    """(batch, batch), rows with the sum 1."""
    vectors = limit_size(flatten_examples(feature), (1,))
    squares = ops.sum(vectors * vectors, axis=-1, keepdims=True)
    # A zero row has no direction: it stays zero, without gradient, where the published root gives NaN.
    vectors = vectors * ops.where(squares > 0, 1.0 / (safe_sqrt(squares) + TINY), ops.zeros_like(squares))
    cosines = ops.matmul(vectors, ops.transpose(vectors))
    # Rounding may carry a cosine below −1.
    likeness = ops.maximum((cosines + 1.0) / 2.0, 0.0)
    return likeness / ops.sum(likeness, axis=-1, keepdims=True)
