"""Relational distillation: the student keeps the teacher's distances and angles between examples."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, model_validator

from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.vectors import MIN_LENGTH, centred_products, flatten_examples, limit_size, squared_distances
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.tensors import Tensor


class Relational(FeatureLoss):
    """`distance` · huber(d(student) − d(teacher)) + `angle` · huber(c(student) − c(teacher)), means over a batch.

    d are the distances of all pairs of examples, divided by their mean; c the cosines of the angles in all
    triplets. huber is x² / 2 up to 1 and |x| − ½ beyond. Features are flattened; pairs of layers are summed. The
    angles need several tensors of batch³ values: 1 MB each at 64 examples, 0.5 GB at 512. In float32, two examples
    whose distance is below about 1e-3 of their size count as equal. The loss of a single example is 0.

    Shapes: student, teacher (batch, ...), of any sizes → a scalar.

    Args:
        distance: weight of the distances within the loss; 0 omits them.
        angle: weight of the angles within the loss; 0 omits them.
        squared: compare squared distances.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("relational", angle=0.0)
        >>> float(loss(student=[[0.0], [1.0], [2.0]], teacher=[[0.0], [3.0], [6.0]]))
        0.0
    """

    known_as: ClassVar[str] = "RKD"
    paper: ClassVar[str] = "Park et al. 2019, arXiv:1904.05068"
    # The published code compares the vectors after pooling.
    axes: ClassVar[tuple[int, ...]] = (1, 3, 2)
    whole_batch: ClassVar[bool] = True
    least_batch: ClassVar[int] = 3
    shape_text: ClassVar[str] = "student, teacher (batch, ...), or lists of them → a scalar"

    kind: Literal["relational"] = "relational"
    distance: NonNegativeFloat = 25.0
    angle: NonNegativeFloat = 50.0
    squared: bool = False

    @model_validator(mode="after")
    def _check_weights(self) -> Relational:
        if self.distance == 0 and self.angle == 0:
            raise ValueError("distance and angle are both 0: nothing is compared")
        return self

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the distance of the relations of a batch."""
        total = 0.0
        for feature, target in pair_features(student, teacher):
            sides = (feature, ops.stop_gradient(target))
            ours, theirs = (centred_products(limit_size(flatten_examples(side))) for side in sides)
            if self.distance:
                difference = self._distances(ours) - self._distances(theirs)
                total = total + self.distance * ops.mean(_huber(difference))
            if self.angle:
                total = total + self.angle * ops.mean(_huber(_cosines(ours) - _cosines(theirs)))
        return total

    def _distances(self, products: Tensor) -> Tensor:
        """Distances (batch, batch) with the mean 1 over pairs of different examples."""
        # The published clamp: the distance of equal examples is 1e-6, without a gradient.
        found = ops.maximum(squared_distances(products), MIN_LENGTH)
        if not self.squared:
            found = ops.sqrt(found)
        other = 1.0 - ops.diag(ops.ones_like(found[0]))
        found = found * other
        mean = ops.sum(found) / ops.maximum(ops.sum(other), 1.0)
        return found / ops.where(mean > 0, mean, ops.ones_like(mean))


def _cosines(products: Tensor) -> Tensor:
    """Cosines (batch, batch, batch) of the angle at i between j and k; 0, without gradient, if i equals j or k."""
    squared = squared_distances(products)
    apart = squared > MIN_LENGTH**2
    nearness = ops.rsqrt(ops.where(apart, squared, ops.ones_like(squared)))
    nearness = ops.where(apart, nearness, ops.zeros_like(squared))
    # (xj − xi) · (xk − xi) from the products alone, without storing differences of features.
    sides = ops.diagonal(products)[:, None] - products
    scalar = products[None, :, :] - products[:, :, None] + sides[:, None, :]
    return scalar * nearness[:, :, None] * nearness[:, None, :]


def _huber(difference: Tensor) -> Tensor:
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * difference * difference, size - 0.5)
