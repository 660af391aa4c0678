"""Weighted soft labels: the teacher has less weight where the student is already as good."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.class_masks import class_mask
from kdcli.formulas.convention import match_logits, per_example
from kdcli.formulas.divergence import cross_entropy
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, Weight, value_at
from kdcli.tensors import Tensor

# Keeps the ratio finite where the teacher is certain.
_EPSILON = 1e-7


class WeightedSoftLabels(Loss):
    """(1 − exp(−c(student) / c(teacher))) · T² · cross-entropy of the softened distributions, per example.

    c is the cross-entropy with the label at T 1. The factor in front is a constant: no gradient flows through it.

    Shapes: student, teacher (batch, ..., classes) logits; labels (batch, ...) classes → (batch,).

    Args:
        temperature: T, a number or a `Change`.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("weighted_soft_labels", temperature=1.0)
        >>> round(float(loss(student=[[0.0, 0.0]], teacher=[[0.0, 0.0]], labels=[1])[0]), 4)
        0.4382
    """

    known_as: ClassVar[str] = "WSLD"
    paper: ClassVar[str] = "Zhou et al. 2021, arXiv:2102.00650"
    notes: ClassVar[tuple[str, ...]] = ("Differs from `soft_cross_entropy` by a weight for each example.",)
    needs_labels: ClassVar[bool] = True
    one_class: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, ..., classes), labels (batch, ...) → (batch,)"

    kind: Literal["weighted_soft_labels"] = "weighted_soft_labels"
    weight: Weight = 2.25
    temperature: Temperature = 2.0

    def __call__(
        self, *, student: Tensor, teacher: Tensor, labels: Tensor = None, progress: Tensor = 0.0, **_: Any
    ) -> Tensor:
        """Return the weighted cross-entropy per example."""
        student, teacher = match_logits(student, teacher)
        mask = class_mask(labels, student, self)
        ratio = _surprise(ops.stop_gradient(student), mask) / (_surprise(teacher, mask) + _EPSILON)
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        entropy = cross_entropy(student / temperature, teacher / temperature)
        return temperature * temperature * per_example((1.0 - ops.exp(-ratio)) * entropy)


def _surprise(logits: Tensor, mask: Tensor) -> Tensor:
    """−log of the probability of the labelled class."""
    return -ops.sum(ops.where(mask, ops.log_softmax(logits, axis=-1), 0.0), axis=-1)
