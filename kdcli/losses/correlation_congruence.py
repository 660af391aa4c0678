"""Correlation congruence: differences of consecutive examples from the teacher must not correlate."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.convention import require_parts
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.layers import apply_layers, build_layers, make_dense
from kdcli.formulas.vectors import flatten_examples
from kdcli.lazy import ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import Weight
from kdcli.tensors import Layer, Shape, Tensor


class CorrelationCongruence(FeatureLoss):
    """Mean over i of the sum over the embedding of δᵢ · δᵢ₊₁, δ = |student − teacher|, i the examples of a batch.

    Both sides are flattened and embedded by one dense layer each, which learn with the student. This is the
    formula of the authors' code; the paper compares matrices of all correlations instead. Pairs of layers are
    summed.

    Shapes: student, teacher (batch, ...), of any sizes → a scalar.

    Args:
        embed: units of the embedding; 0 compares features of equal size without an embedding.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("correlation_congruence", embed=0)
        >>> float(loss(student=[[1.0, 3.0], [2.0, 2.0]], teacher=[[0.0, 1.0], [0.0, 0.0]]))
        6.0
    """

    known_as: ClassVar[str] = "CC"
    paper: ClassVar[str] = "Peng et al. 2019, arXiv:1904.01802"
    # The published code compares the vectors after pooling.
    axes: ClassVar[tuple[int, ...]] = (1, 3, 2)
    whole_batch: ClassVar[bool] = True
    least_batch: ClassVar[int] = 2
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, ...), or lists of them → a scalar"

    kind: Literal["correlation_congruence"] = "correlation_congruence"
    weight: Weight = 0.02
    embed: Annotated[int, Field(ge=0)] = 128

    def build(self, given: Given) -> Parts:
        """Build two embeddings for each pair."""
        if not self.embed:
            return NO_PARTS
        students, teachers = (
            [self._make_embedding(shape) for shape in shapes] for shapes in (given.student, given.teacher)
        )
        return Parts({"students": students, "teachers": teachers})

    def _make_embedding(self, shape: Shape) -> Layer:
        if None in shape:
            raise ValueError(f"{self.kind}: a feature of shape {shape} has no fixed size to embed")
        return build_layers([make_dense(self.embed)], (math.prod(side for side in shape if side is not None),))[0]

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the loss of a batch."""
        total = 0.0
        for number, (feature, target) in enumerate(pair_features(student, teacher)):
            feature, target = flatten_examples(feature), flatten_examples(ops.stop_gradient(target))
            if self.embed:
                trained = require_parts(parts, self).trained
                feature = apply_layers([trained["students"][number]], feature)
                target = apply_layers([trained["teachers"][number]], target)
            difference = ops.abs(feature - target)
            total = total + ops.mean(ops.sum(difference[:-1] * difference[1:], axis=-1))
        return total
