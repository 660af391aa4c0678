"""Soft targets: match the teacher's softened class distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import match_logits, per_example
from kdcli.formulas.deviation import standardize_logits
from kdcli.formulas.divergence import divergence
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, Weight, value_at
from kdcli.tensors import Tensor


class SoftTargets(Loss):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), per example.

    The factor T² makes the size of the gradient independent of T. `standardize` first scales each example's logits
    to mean 0 and (unbiased) standard deviation 1: Sun et al. 2024, arXiv:2403.01427. Sigmoid outputs use the
    Bernoulli divergence of each output, values the squared error.

    Shapes: student, teacher (batch, ..., classes) logits → (batch,).

    Args:
        temperature: T, a number or a `Change`; 4, or 2 with `standardize`.
        standardize: standardise the logits; for class logits only. The default weight is then 9.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("soft_targets", temperature=4.0)
        >>> float(loss(student=[[1.0, 2.0]], teacher=[[1.0, 2.0]])[0])
        0.0
    """

    known_as: ClassVar[str] = "KD, Hinton"
    paper: ClassVar[str] = "Hinton, Vinyals & Dean 2015, arXiv:1503.02531"
    notes: ClassVar[tuple[str, ...]] = (
        "Logit standardisation is `{kind: soft_targets, standardize: true}`, with weight 9 and T 2.",
    )
    output_kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid", "values")
    implied: ClassVar[Mapping[tuple[str, Any], Mapping[str, Any]]] = {
        ("standardize", True): {"weight": 9.0, "temperature": 2.0}
    }

    kind: Literal["soft_targets"] = "soft_targets"
    weight: Weight = 0.9
    temperature: Temperature = 4.0
    standardize: bool = False

    @property
    def accepted_output_kinds(self) -> tuple[str, ...]:
        """All output kinds, or only class logits if they are standardised."""
        return ("logits",) if self.standardize else self.output_kinds

    def __call__(
        self, *, student: Tensor, teacher: Tensor, output_kind: str = "logits", progress: Tensor = 0.0, **_: Any
    ) -> Tensor:
        """Return the divergence per example."""
        student, teacher = match_logits(student, teacher)
        if self.standardize and output_kind != "logits":
            raise ValueError(
                f"soft_targets: standardize needs a classifier with logits (got {output_kind}); leave "
                "standardize out"
            )
        if output_kind == "values":
            return per_example(ops.square(student - teacher))
        if self.standardize:
            student, teacher = standardize_logits(student), standardize_logits(teacher)
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        student, teacher = student / temperature, teacher / temperature
        distance = _bernoulli_divergence if output_kind == "sigmoid" else divergence
        return temperature * temperature * per_example(distance(student, teacher))


def _bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    probability = ops.sigmoid(teacher)
    yes = ops.log_sigmoid(teacher) - ops.log_sigmoid(student)
    no = ops.log_sigmoid(-teacher) - ops.log_sigmoid(-student)
    return probability * yes + (1.0 - probability) * no
