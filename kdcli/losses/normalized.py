"""Normalised distillation: the target class unchanged, the other classes normalised to the sum 1 on both sides."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat

from kdcli.formulas.class_masks import class_mask, log_softmax_others
from kdcli.formulas.convention import match_logits, per_example
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, value_at
from kdcli.tensors import Tensor


class Normalized(Loss):
    """−q log p of the labelled class − gamma · T² · Σ q̂ log p̂ of the other classes, per example.

    p and q are the student's and the teacher's softmax (at T 1); p̂ and q̂ are the softmax over the other classes,
    of logits / T. The teacher's entropy is not subtracted, so the minimum is not 0.

    Shapes: student, teacher (batch, ..., classes) logits; labels (batch, ...) classes → (batch,).

    Args:
        gamma: weight of the other classes, at least 0.
        temperature: T of the other classes, a number or a `Change`.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("normalized", gamma=0.0)
        >>> round(float(loss(student=[[0.0, 0.0]], teacher=[[0.0, 0.0]], labels=[1])[0]), 4)
        0.3466
    """

    known_as: ClassVar[str] = "NKD"
    paper: ClassVar[str] = "Yang et al. 2023, arXiv:2303.13005"
    needs_labels: ClassVar[bool] = True
    one_class: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, ..., classes), labels (batch, ...) → (batch,)"

    kind: Literal["normalized"] = "normalized"
    gamma: NonNegativeFloat = 1.5
    temperature: Temperature = 1.0

    def __call__(
        self, *, student: Tensor, teacher: Tensor, labels: Tensor = None, progress: Tensor = 0.0, **_: Any
    ) -> Tensor:
        """Return the two cross-entropies, per example."""
        student, teacher = match_logits(student, teacher)
        mask = class_mask(labels, student, self)
        own = ops.where(mask, ops.softmax(teacher, axis=-1) * ops.log_softmax(student, axis=-1), 0.0)
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        probabilities = ops.where(mask, 0.0, ops.exp(log_softmax_others(teacher / temperature, mask)))
        rest = ops.sum(probabilities * log_softmax_others(student / temperature, mask), axis=-1)
        return per_example(-ops.sum(own, axis=-1) - self.gamma * temperature * temperature * rest)
