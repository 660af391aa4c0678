"""Attention transfer: the student's activations are strong where the teacher's are."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.attention import attention_map
from kdcli.formulas.convention import per_example
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.map_sizes import match_sizes
from kdcli.formulas.vectors import safe_sqrt
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Weight
from kdcli.tensors import Tensor


class AttentionTransfer(FeatureLoss):
    """Mean over the positions of (a(student) − a(teacher))², a = mean over channels of featureᵖ, of length 1.

    Pairs are summed. The larger map is first averaged down to the size of the smaller. Odd powers keep the sign,
    as in the published code.

    Shapes: student, teacher (batch, ..., channels) → (batch,).

    Args:
        p: power of the feature.
        mode: `code`, the formula above, or `paper`, the length of a(student) − a(teacher) instead of a mean of
            squares; its values are orders of magnitude larger, so use a weight of about 1.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("attention_transfer")
        >>> float(loss(student=[[[1.0], [0.0]]], teacher=[[[0.0], [2.0]]])[0])
        1.0
    """

    known_as: ClassVar[str] = "AT"
    paper: ClassVar[str] = "Zagoruyko & Komodakis 2016, arXiv:1612.03928"
    axes: ClassVar[tuple[int, ...]] = (3, 2)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    family: ClassVar[bool] = True

    kind: Literal["attention_transfer"] = "attention_transfer"
    weight: Weight = 1000.0
    p: Annotated[int, Field(ge=1)] = 2
    mode: Literal["code", "paper"] = "code"

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the distance of the attention maps, per example."""
        total = 0.0
        for feature, target in pair_features(student, teacher):
            feature, target = match_sizes(feature, ops.stop_gradient(target))
            total = total + self._distance(attention_map(feature, self.p) - attention_map(target, self.p))
        return total

    def _distance(self, difference: Tensor) -> Tensor:
        if self.mode == "code":
            return per_example(ops.square(difference))
        return safe_sqrt(ops.sum(ops.square(difference), axis=-1))
