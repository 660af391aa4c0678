"""Soft labels: cross-entropy with the teacher's distribution as the only target."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import match_logits, per_example
from kdcli.formulas.divergence import cross_entropy
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, value_at
from kdcli.tensors import Tensor


class SoftCrossEntropy(Loss):
    """T² · cross-entropy of softmax(student / T) against softmax(teacher / T), per example.

    Its gradient is that of `soft_targets`; the value is larger by the teacher's entropy. Sigmoid outputs use the
    binary cross-entropy of each output.

    Shapes: student, teacher (batch, ..., classes) logits → (batch,).

    Args:
        temperature: T, a number or a `Change`; 1 is the teacher's own distribution.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("soft_cross_entropy")
        >>> round(float(loss(student=[[0.0, 0.0]], teacher=[[0.0, 0.0]])[0]), 4)
        0.6931
    """

    known_as: ClassVar[str] = "soft labels, offline distillation"
    paper: ClassVar[str] = "Ba & Caruana 2014, arXiv:1312.6184"
    notes: ClassVar[tuple[str, ...]] = (
        "Differs from `soft_targets` by the teacher's entropy, which has no gradient.",
    )
    output_kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid")
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["soft_cross_entropy"] = "soft_cross_entropy"
    temperature: Temperature = 1.0

    def __call__(
        self, *, student: Tensor, teacher: Tensor, output_kind: str = "logits", progress: Tensor = 0.0, **_: Any
    ) -> Tensor:
        """Return the cross-entropy per example."""
        student, teacher = match_logits(student, teacher)
        if output_kind == "values":
            raise ValueError("soft_cross_entropy needs a classifier, not an output of values: use soft_targets")
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        student, teacher = student / temperature, teacher / temperature
        if output_kind == "sigmoid":
            probability = ops.sigmoid(teacher)
            entropy = -probability * ops.log_sigmoid(student) - (1.0 - probability) * ops.log_sigmoid(-student)
        else:
            entropy = cross_entropy(student, teacher)
        return temperature * temperature * per_example(entropy)
