"""Soft targets: match the teacher's softened class distribution."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from kdcli.formulas.convention import per_example, wide
from kdcli.formulas.deviation import deviation
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import Temperature, Weight, value_at

STANDARDIZED = {"temperature": 2.0, "weight": 9.0}


class SoftTargets(Loss):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), per example.

    T² keeps the gradient's size independent of T.
    `standardize` first brings each example's logits to mean 0 and (unbiased) deviation 1: Sun et al. 2024,
    arXiv:2403.01427. Sigmoid heads take the Bernoulli divergence of each output, values the squared error.

    Shapes: student, teacher (batch, ..., classes) logits → (batch,).

    Args:
        temperature: T, a number or a `Change`; 4, or 2 with `standardize`.
        standardize: logit standardisation; the weight is then 9 unless given.

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
    heads: ClassVar[tuple[str, ...]] = ("logits", "sigmoid", "values")

    kind: Literal["soft_targets"] = "soft_targets"
    weight: Weight = 0.9
    temperature: Temperature = 4.0
    standardize: bool = False

    @model_validator(mode="before")
    @classmethod
    def _standardized_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("standardize") is True:
            return {**STANDARDIZED, **values}
        return values

    def __call__(
        self, *, student: Any, teacher: Any, output_kind: str = "logits", progress: Any = 0.0, **_: Any
    ) -> Any:
        """The divergence, per example."""
        student, teacher = wide(student), ops.stop_gradient(wide(teacher))
        if output_kind == "values":
            return per_example(ops.square(student - teacher))
        if self.standardize and output_kind == "logits":
            student, teacher = standardized(student), standardized(teacher)
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        student, teacher = student / temperature, teacher / temperature
        divergence = _bernoulli if output_kind == "sigmoid" else _categorical
        return temperature * temperature * per_example(divergence(student, teacher))


def standardized(logits: Any) -> Any:
    """Logits with mean 0 and unbiased standard deviation 1 over the last axis; 1e-7 is added to it."""
    centred, norm = deviation(logits, axis=-1)
    return centred / (norm / max(logits.shape[-1] - 1, 1) ** 0.5 + 1e-7)


def _categorical(student: Any, teacher: Any) -> Any:
    log_teacher = ops.log_softmax(teacher, axis=-1)
    return ops.sum(ops.exp(log_teacher) * (log_teacher - ops.log_softmax(student, axis=-1)), axis=-1)


def _bernoulli(student: Any, teacher: Any) -> Any:
    chance = ops.sigmoid(teacher)
    yes = ops.log_sigmoid(teacher) - ops.log_sigmoid(student)
    no = ops.log_sigmoid(-teacher) - ops.log_sigmoid(-student)
    return chance * yes + (1.0 - chance) * no
