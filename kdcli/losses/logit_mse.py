"""Logit matching: the squared error between logits."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import match_logits, per_example
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.tensors import Tensor


class LogitMse(Loss):
    """Mean over the classes of (student − teacher)², per example, on logits.

    It has no temperature, which would only scale the loss.

    Shapes: student, teacher (batch, ..., classes) logits → (batch,).

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("logit_mse")
        >>> float(loss(student=[[1.0, 3.0]], teacher=[[1.0, 1.0]])[0])
        2.0
    """

    known_as: ClassVar[str] = "logit matching"
    paper: ClassVar[str] = "Ba & Caruana 2014, arXiv:1312.6184"
    notes: ClassVar[tuple[str, ...]] = (
        "`soft_targets` with a high T approaches half of this value if the logits of both sides have mean 0.",
    )
    output_kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid", "values")

    kind: Literal["logit_mse"] = "logit_mse"

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the squared error per example."""
        student, teacher = match_logits(student, teacher)
        return per_example(ops.square(student - teacher))
