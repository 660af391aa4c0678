"""Masked generation: from a masked student map, a small block generates the teacher's whole map."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import require_parts
from kdcli.formulas.layer_pairs import pair_equal_features
from kdcli.formulas.layers import apply_layers, build_layers, make_convolution, make_layer
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import Fraction, Weight
from kdcli.tensors import Tensor


class MaskedGenerative(FeatureLoss):
    """Σ (G(student · M) − teacher)² over positions and channels, per example; pairs are summed.

    M is 0 at random positions and 1 elsewhere, drawn anew for each example in every step. G is two 3×3
    convolutions with a ReLU between them. As in the paper the squares are summed, hence the small default weight.

    Shapes: student, teacher (batch, h, w, channels), equal after projection → (batch,).

    Args:
        mask: fraction of the positions that is masked.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("masked_generative").mask
        0.65
    """

    known_as: ClassVar[str] = "MGD"
    paper: ClassVar[str] = "Yang et al. 2022, arXiv:2205.01529"
    notes: ClassVar[tuple[str, ...]] = (
        "With `mask: 0` it is `hint` behind two convolutions, as a sum instead of a mean.",
    )
    projects: ClassVar[bool] = True
    axes: ClassVar[tuple[int, ...]] = (3,)
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, h, w, channels), or lists of them → (batch,)"

    kind: Literal["masked_generative"] = "masked_generative"
    weight: Weight = 2e-5
    mask: Fraction = 0.65

    def build(self, given: Given) -> Parts:
        """Build a generator for each pair, and the random state of the masks."""
        generators = []
        for shape in given.teacher:
            channels = int(shape[-1] or 0)
            first, second = (make_convolution(channels, 3, bias=True) for _ in range(2))
            generators.append(build_layers([first, make_layer(keras.layers.ReLU), second], shape))
        return Parts({"generators": generators}, {"draws": keras.random.SeedGenerator(given.seed)})

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the squared error of the generated maps, per example."""
        own = require_parts(parts, self)
        total = 0.0
        for (feature, target), layers in zip(
            pair_equal_features(student, teacher), own.trained["generators"], strict=True
        ):
            feature = feature * self._draw_mask(feature, own.kept["draws"])
            feature = apply_layers(layers, feature)
            total = total + ops.sum(ops.square(feature - ops.stop_gradient(target)), axis=(1, 2, 3))
        return total

    def _draw_mask(self, feature: Tensor, draws: Any) -> Tensor:
        """A tensor (batch, h, w, 1) of 0 and 1."""
        shape = (ops.shape(feature)[0], feature.shape[1], feature.shape[2], 1)
        return ops.cast(keras.random.uniform(shape, seed=draws, dtype="float32") >= self.mask, feature.dtype)
