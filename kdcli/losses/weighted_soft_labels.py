"""Weighted soft labels: the teacher counts less where the student is already as good as it is."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import match_logits, per_example
from kdcli.formulas.divergence import cross_entropy
from kdcli.formulas.one_class import class_mask
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, Weight, value_at

# Keeps the ratio finite where the teacher is certain.
LEAST = 1e-7


class WeightedSoftLabels(Loss):
    """(1 − exp(−c(student) / c(teacher))) · T² · cross-entropy of the softened distributions, per example.

    c is the cross-entropy with the label at T 1. The weight in front is a number: no gradient flows through it.

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

    def __call__(self, *, student: Any, teacher: Any, labels: Any = None, progress: Any = 0.0, **_: Any) -> Any:
        """The weighted cross-entropy, per example."""
        student, teacher = match_logits(student, teacher)
        mask = class_mask(labels, student, self)
        ratio = _surprise(ops.stop_gradient(student), mask) / (_surprise(teacher, mask) + LEAST)
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        entropy = cross_entropy(student / temperature, teacher / temperature)
        return temperature * temperature * per_example((1.0 - ops.exp(-ratio)) * entropy)


def _surprise(logits: Any, mask: Any) -> Any:
    """−log of the labelled class's share."""
    return -ops.sum(ops.where(mask, ops.log_softmax(logits, axis=-1), 0.0), axis=-1)
