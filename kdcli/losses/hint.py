"""Hints: the student's features imitate the teacher's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from kdcli.formulas.convention import cosine, per_example
from kdcli.formulas.divergence import divergence
from kdcli.formulas.layer_pairs import pair_equal_features
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Temperature, Weight, value_at
from kdcli.tensors import Tensor


class Hint(FeatureLoss):
    """Distance between the projected student feature and the teacher's, per example; pairs are summed.

    `l2`, the mean of squares, is FitNets. `kl` is T² times the divergence of the softmax over the channels, mean
    over the positions; `cosine` is 1 − cos over the channels.

    Shapes: student, teacher (batch, ..., channels), equal after projection → (batch,).

    Args:
        distance: `l2`, `l1`, `cosine` or `kl`.
        temperature: T of `kl`, a number or a `Change`; refused with another distance.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("hint", distance="l1")
        >>> float(loss(student=[[1.0, 3.0]], teacher=[[1.0, 1.0]])[0])
        1.0
    """

    known_as: ClassVar[str] = "FitNets"
    paper: ClassVar[str] = "Romero et al. 2014, arXiv:1412.6550"
    notes: ClassVar[tuple[str, ...]] = (
        "`{kind: hint, distance: cosine}` compares directions only; `channel_wise` is `kl` over the positions.",
    )
    projects: ClassVar[bool] = True

    kind: Literal["hint"] = "hint"
    weight: Weight = 10.0
    distance: Literal["l2", "l1", "cosine", "kl"] = "l2"
    temperature: Temperature = 3.0

    @model_validator(mode="after")
    def _check_temperature(self) -> Hint:
        if self.distance != "kl" and self.temperature != 3.0:
            raise ValueError("temperature needs distance: kl")
        return self

    def __call__(self, *, student: Tensor, teacher: Tensor, progress: Tensor = 0.0, **_: Any) -> Tensor:
        """Return the distance per example."""
        total = 0.0
        for feature, target in pair_equal_features(student, teacher):
            total = total + per_example(self._distance(feature, ops.stop_gradient(target), progress))
        return total

    def _distance(self, student: Tensor, teacher: Tensor, progress: Tensor) -> Tensor:
        if self.distance == "l2":
            return ops.square(student - teacher)
        if self.distance == "l1":
            return ops.abs(student - teacher)
        if self.distance == "cosine":
            return 1.0 - cosine(student, teacher)
        temperature = ops.cast(value_at(self.temperature, progress), student.dtype)
        return temperature * temperature * divergence(student / temperature, teacher / temperature)
