"""Decoupled distillation: separate weights for the target class and for the other classes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, model_validator

from kdcli.formulas.class_masks import MASKED_LOGIT, class_mask, log_softmax_others
from kdcli.formulas.convention import match_logits, per_example
from kdcli.formulas.deviation import standardize_logits
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, value_at
from kdcli.tensors import Tensor


class Decoupled(Loss):
    """T² · (alpha · KL(target class, rest) + beta · KL among the other classes), per example.

    The first divergence is between the pairs (p, 1 − p) of the labelled class, the second between the
    distributions over the other classes alone; both use logits / T. With two classes the second is 0.

    Shapes: student, teacher (batch, ..., classes) logits; labels (batch, ...) classes → (batch,).

    Args:
        alpha: weight of the target class, at least 0.
        beta: weight of the other classes, at least 0.
        temperature: T, a number or a `Change`.
        standardize: first scale each example's logits to mean 0 and (unbiased) standard deviation 1.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("decoupled", beta=2.0)
        >>> float(loss(student=[[1.0, 2.0, 0.0]], teacher=[[1.0, 2.0, 0.0]], labels=[1])[0])
        0.0
    """

    known_as: ClassVar[str] = "DKD"
    paper: ClassVar[str] = "Zhao et al. 2022, arXiv:2203.08679"
    notes: ClassVar[tuple[str, ...]] = (
        "With `alpha: 1` and the teacher's probability of the other classes as `beta`, this is `soft_targets`.",
    )
    needs_labels: ClassVar[bool] = True
    one_class: ClassVar[bool] = True
    least_classes: ClassVar[int] = 3
    shape_text: ClassVar[str] = "student, teacher (batch, ..., classes), labels (batch, ...) → (batch,)"

    kind: Literal["decoupled"] = "decoupled"
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 8.0
    temperature: Temperature = 4.0
    standardize: bool = False

    @model_validator(mode="after")
    def _check_weights(self) -> Decoupled:
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0: nothing is compared")
        return self

    def __call__(
        self, *, student: Tensor, teacher: Tensor, labels: Tensor = None, progress: Tensor = 0.0, **_: Any
    ) -> Tensor:
        """Return the weighted sum of the two divergences, per example."""
        student, teacher = match_logits(student, teacher)
        mask = class_mask(labels, student, self)
        if self.standardize:
            student, teacher = standardize_logits(student), standardize_logits(teacher)
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        student, teacher = student / temperature, teacher / temperature
        target = sum(
            ops.exp(t) * (t - s)
            for s, t in zip(_split_classes(student, mask), _split_classes(teacher, mask), strict=True)
        )
        log_teacher = log_softmax_others(teacher, mask)
        probabilities = ops.where(mask, 0.0, ops.exp(log_teacher))
        rest = ops.sum(probabilities * (log_teacher - log_softmax_others(student, mask)), axis=-1)
        return temperature * temperature * per_example(self.alpha * target + self.beta * rest)


def _split_classes(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 − p) of the labelled class, by log-sum-exp, so that neither underflows."""
    whole = ops.logsumexp(logits, axis=-1)
    own = ops.sum(ops.where(mask, logits, 0.0), axis=-1)
    return own - whole, ops.logsumexp(ops.where(mask, MASKED_LOGIT, logits), axis=-1) - whole
