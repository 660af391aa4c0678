"""Relations between and within classes: the predictions of student and teacher correlate."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, model_validator

from kdcli.formulas.convention import match_logits
from kdcli.formulas.deviation import deviation
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, Weight, value_at
from kdcli.tensors import Tensor

# Added to the product of the norms, as in the published code.
_EPSILON = 1e-8


class Dist(Loss):
    """tau² · (beta · (1 − mean over examples of ρ) + gamma · (1 − mean over classes of ρ)).

    ρ is Pearson's correlation of softmax(student / tau) and softmax(teacher / tau): of an example's probabilities
    over the classes, and of a class's probabilities over the batch. Positions of maps and tokens count as
    examples. For a single example the second part is constant.

    Shapes: student, teacher (batch, ..., classes) logits → scalar.

    Args:
        beta: weight of the relation between classes, at least 0.
        gamma: weight of the relation within a class, at least 0.
        tau: temperature, a number or a `Change`.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("dist", gamma=0.0)
        >>> round(float(loss(student=[[0.0, 9.0], [9.0, 0.0]], teacher=[[9.0, 0.0], [9.0, 0.0]])), 4)
        1.0
    """

    known_as: ClassVar[str] = "DIST, Pearson relations"
    paper: ClassVar[str] = "Huang et al. 2022, arXiv:2205.10536"
    whole_batch: ClassVar[bool] = True
    least_batch: ClassVar[int] = 2
    shape_text: ClassVar[str] = "student, teacher (batch, ..., classes) → scalar"

    kind: Literal["dist"] = "dist"
    weight: Weight = 2.0
    beta: NonNegativeFloat = 1.0
    gamma: NonNegativeFloat = 1.0
    tau: Temperature = 1.0

    @model_validator(mode="after")
    def _check_weights(self) -> Dist:
        if self.beta == 0 and self.gamma == 0:
            raise ValueError("beta and gamma are both 0: nothing is compared")
        return self

    def __call__(self, *, student: Tensor, teacher: Tensor, progress: Tensor = 0.0, **_: Any) -> Tensor:
        """Return the weighted sum of the two relations, a scalar."""
        student, teacher = match_logits(student, teacher)
        tau = ops.cast(value_at(self.tau, progress), student.dtype)
        ours, theirs = (
            ops.softmax(ops.reshape(logits, (-1, logits.shape[-1])) / tau, axis=-1)
            for logits in (student, teacher)
        )
        between = 1.0 - ops.mean(_correlation(ours, theirs, axis=1))
        within = 1.0 - ops.mean(_correlation(ours, theirs, axis=0))
        return tau * tau * (self.beta * between + self.gamma * within)


def _correlation(first: Tensor, second: Tensor, *, axis: int) -> Tensor:
    (first, ours), (second, theirs) = deviation(first, axis=axis), deviation(second, axis=axis)
    return ops.sum(first * second / (ours * theirs + _EPSILON), axis=axis)
