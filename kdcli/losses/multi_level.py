"""Several levels: predictions of each example, similarity of the examples, and similarity of the classes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from kdcli.formulas.convention import match_logits
from kdcli.formulas.deviation import standardize_logits
from kdcli.formulas.divergence import divergence
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, value_at
from kdcli.tensors import Tensor

Temperatures = Annotated[tuple[Temperature, ...], Field(strict=False, min_length=1)]


class MultiLevel(Loss):
    """Σ over T: T² · KL(Q ‖ P) / batch + |QQᵀ − PPᵀ|² / batch + |QᵀQ − PᵀP|² / classes.

    P and Q are softmax(student / T) and softmax(teacher / T) as matrices (batch, classes), |·|² is the sum of
    squares. The published training also selects examples by the teacher's confidence; that step, a factor of about
    one half on the first view of the images, is omitted.

    Shapes: student, teacher (batch, classes) logits → scalar.

    Args:
        temperatures: values of T, each a number or a `Change`; their losses are summed.
        instance_level: weight of the divergence, at least 0.
        batch_level: weight of the similarity of examples, at least 0.
        class_level: weight of the similarity of classes, at least 0.
        standardize: for the divergence, scale each example's logits to mean 0 and (unbiased) standard deviation 1.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("multi_level", temperatures=[1.0])
        >>> float(loss(student=[[1.0, 2.0]], teacher=[[1.0, 2.0]]))
        0.0
    """

    known_as: ClassVar[str] = "MLKD"
    paper: ClassVar[str] = "Jin, Wang & Lin 2023, CVPR"
    whole_batch: ClassVar[bool] = True
    leading_axes: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, classes) → scalar"

    kind: Literal["multi_level"] = "multi_level"
    temperatures: Temperatures = (2.0, 3.0, 4.0, 5.0, 6.0)
    instance_level: NonNegativeFloat = 1.0
    batch_level: NonNegativeFloat = 1.0
    class_level: NonNegativeFloat = 1.0
    standardize: bool = False

    @model_validator(mode="after")
    def _check_weights(self) -> MultiLevel:
        if self.instance_level == self.batch_level == self.class_level == 0:
            raise ValueError("one of instance_level, batch_level and class_level must be above 0")
        return self

    def __call__(self, *, student: Tensor, teacher: Tensor, progress: Tensor = 0.0, **_: Any) -> Tensor:
        """Return the weighted sum of all levels at all temperatures, a scalar."""
        student, teacher = match_logits(student, teacher)
        if len(student.shape) != 2:
            raise ValueError(f"multi_level needs logits of shape (batch, classes), got {tuple(student.shape)}")
        pair = (student, teacher)
        if self.standardize:
            pair = (standardize_logits(student), standardize_logits(teacher))
        total: Tensor = 0.0
        for setting in self.temperatures:
            temperature = ops.cast(value_at(setting, progress), student.dtype)
            if self.instance_level:
                ours, theirs = (logits / temperature for logits in pair)
                found = temperature * temperature * ops.mean(divergence(ours, theirs))
                total = total + self.instance_level * found
            if self.batch_level or self.class_level:
                total = total + self._compare_similarities(student / temperature, teacher / temperature)
        return total

    def _compare_similarities(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The weighted sum of the batch level and the class level."""
        ours, theirs = ops.softmax(student, axis=-1), ops.softmax(teacher, axis=-1)
        total: Tensor = 0.0
        if self.batch_level:
            examples = ops.matmul(theirs, ops.transpose(theirs)) - ops.matmul(ours, ops.transpose(ours))
            total = total + self.batch_level * ops.mean(ops.sum(examples * examples, axis=-1))
        if self.class_level:
            classes = ops.matmul(ops.transpose(theirs), theirs) - ops.matmul(ops.transpose(ours), ours)
            total = total + self.class_level * ops.mean(ops.sum(classes * classes, axis=-1))
        return total
