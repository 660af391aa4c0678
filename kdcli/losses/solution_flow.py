"""Flow of the solution procedure: how one layer's channels relate to those of the next layer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import per_example
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.map_sizes import match_sizes
from kdcli.formulas.vectors import flatten_positions
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Weight
from kdcli.tensors import Tensor


class SolutionFlow(FeatureLoss):
    """Mean over channels i, j of (M(student) − M(teacher))², Mᵢⱼ = mean over positions of layerᵢ · next layerⱼ.

    Consecutive layers are compared, in the given order, and summed. Within a network, the larger map is averaged
    down to the size of the smaller.

    Shapes: lists of at least two features (batch, ..., channels), equal channels on both sides → (batch,).

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("solution_flow").weight
        50.0
    """

    known_as: ClassVar[str] = "FSP"
    paper: ClassVar[str] = "Yim et al. 2017, CVPR 2017"
    axes: ClassVar[tuple[int, ...]] = (3, 2)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    least_pairs: ClassVar[int] = 2
    equal: ClassVar[tuple[str, ...]] = ("channels",)
    shape_text: ClassVar[str] = "student, teacher lists of (batch, ..., channels) → (batch,)"

    kind: Literal["solution_flow"] = "solution_flow"
    weight: Weight = 50.0

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the distance of the flow matrices, per example."""
        pairs = pair_features(student, teacher, least=self.least_pairs, equal_channels=True)
        total = 0.0
        for (feature, target), (following, wanted) in pairwise(pairs):
            difference = _flow(feature, following) - _flow(ops.stop_gradient(target), ops.stop_gradient(wanted))
            total = total + per_example(ops.square(difference))
        return total


def _flow(layer: Tensor, following: Tensor) -> Tensor:
    """Flow matrices (batch, channels, channels of the next layer)."""
    layer, following = match_sizes(layer, following)
    layer, following = flatten_positions(layer), flatten_positions(following)
    return ops.einsum("bpi,bpj->bij", layer, following) / ops.cast(ops.shape(layer)[1], layer.dtype)
