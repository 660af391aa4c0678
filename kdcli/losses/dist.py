"""Relations between and within classes: the student's answers correlate with the teacher's."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from kdcli.formulas.convention import match_logits
from kdcli.formulas.deviation import deviation
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, Weight, value_at

# Added to the product of the norms, as the published code does.
LEAST = 1e-8


class Dist(Loss):
    """tau² · (beta · (1 − mean over examples of ρ) + gamma · (1 − mean over classes of ρ)).

    ρ is Pearson's correlation of softmax(student / tau) and softmax(teacher / tau): of an example's answers over
    the classes, and of a class's answers over the batch. Positions of maps and tokens are examples of their own.
    With one example alone the second part is constant.

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
    beta: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(ge=0)] = 1.0
    tau: Temperature = 1.0

    @model_validator(mode="after")
    def _something_is_compared(self) -> Dist:
        if self.beta == 0 and self.gamma == 0:
            raise ValueError("beta and gamma are both 0: nothing is compared")
        return self

    def __call__(self, *, student: Any, teacher: Any, progress: Any = 0.0, **_: Any) -> Any:
        """The two relations of the whole batch, a scalar."""
        student, teacher = match_logits(student, teacher)
        tau = ops.cast(value_at(self.tau, progress), student.dtype)
        ours, theirs = (
            ops.softmax(ops.reshape(logits, (-1, logits.shape[-1])) / tau, axis=-1)
            for logits in (student, teacher)
        )
        between = 1.0 - ops.mean(_correlation(ours, theirs, axis=1))
        within = 1.0 - ops.mean(_correlation(ours, theirs, axis=0))
        return tau * tau * (self.beta * between + self.gamma * within)


def _correlation(first: Any, second: Any, *, axis: int) -> Any:
    (first, ours), (second, theirs) = deviation(first, axis=axis), deviation(second, axis=axis)
    return ops.sum(first * second / (ours * theirs + LEAST), axis=axis)
