"""Channel-wise distillation for dense prediction: each channel is a distribution over the positions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import per_example
from kdcli.formulas.divergence import divergence
from kdcli.formulas.layer_pairs import pair_equal_features
from kdcli.formulas.vectors import flatten_positions
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Temperature, value_at
from kdcli.tensors import Tensor


class ChannelWise(FeatureLoss):
    """τ² · KL(softmax(teacher / τ) ‖ softmax(student / τ)) over the positions, mean over the channels.

    Pairs of layers are summed.

    Shapes: student, teacher (batch, ..., channels), equal after projection → (batch,).

    Args:
        tau: τ, a number or a `Change`.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("channel_wise")
        >>> float(loss(student=[[[1.0], [2.0]]], teacher=[[[3.0], [4.0]]])[0])
        0.0
    """

    known_as: ClassVar[str] = "CWD"
    paper: ClassVar[str] = "Shu et al. 2021, arXiv:2011.13256"
    notes: ClassVar[tuple[str, ...]] = (
        "Differs from `{kind: hint, distance: kl}`, which takes the softmax over the channels of a position.",
    )
    projects: ClassVar[bool] = True
    axes: ClassVar[tuple[int, ...]] = (3, 2)

    kind: Literal["channel_wise"] = "channel_wise"
    tau: Temperature = 1.0

    def __call__(self, *, student: Tensor, teacher: Tensor, progress: Tensor = 0.0, **_: Any) -> Tensor:
        """Return the divergence per example."""
        total = 0.0
        for feature, target in pair_equal_features(student, teacher):
            tau = ops.cast(value_at(self.tau, progress), feature.dtype)
            ours, theirs = flatten_positions(feature) / tau, flatten_positions(ops.stop_gradient(target)) / tau
            total = total + tau * tau * per_example(divergence(ours, theirs, axis=1))
        return total
