"""Activation boundaries: the student's units are active where the teacher's are, with a margin."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.layer_pairs import pair_features, sum_by_depth
from kdcli.formulas.layers import (
    apply_layers,
    build_layers,
    check_channels,
    get_pair_layers,
    make_batch_norm,
    make_convolution,
    make_layer,
)
from kdcli.formulas.map_sizes import match_sizes
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import PositiveFloat
from kdcli.tensors import Layer, Shape, Tensor

# Factor of the sum in the published code.
_SCALE = 3 / 1000
# For larger kernels the map is averaged down instead.
_MAX_KERNEL = 7


class ActivationBoundary(FeatureLoss):
    """3/1000 · Σ max(0, m − r)² where the teacher is above 0, max(0, r + m)² elsewhere; summed over a feature.

    r = R(student), and m is the margin. R is a convolution with batch normalisation (a dense layer for vectors),
    or nothing where the shapes are equal. Its kernel is 3×3 with stride 2 where the student's map is twice as
    large as the teacher's, 4×4 and transposed where it is half as large, and otherwise as large as the difference
    in size requires. The i-th of n pairs has the weight 2^(i − n), so deeper pairs count more. Features before
    their activation are compared.

    Shapes: student, teacher (batch, h, w, channels) or (batch, channels), or lists of them → (batch,).

    Args:
        margin: m, in units of the activation.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("activation_boundary")
        >>> round(float(loss(student=[[2.0, 0.5]], teacher=[[1.0, -1.0]])[0]), 5)
        0.00675
    """

    known_as: ClassVar[str] = "AB"
    paper: ClassVar[str] = "Heo et al. 2018, arXiv:1811.03233"
    axes: ClassVar[tuple[int, ...]] = (3, 1)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    before_activation: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["activation_boundary"] = "activation_boundary"
    margin: PositiveFloat = 1.0

    def build(self, given: Given) -> Parts:
        """Build a regressor for each pair."""
        pairs = zip(given.student, given.teacher, strict=True)
        return Parts({"regressors": [build_layers(_make_regressor(ours, theirs), ours) for ours, theirs in pairs]})

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the hinge loss per example; without parts, the student's features are regressed already."""
        pairs, squares = pair_features(student, teacher), []
        regressors = get_pair_layers(parts, "regressors", len(pairs))
        for (feature, target), layers in zip(pairs, regressors, strict=True):
            feature, target = match_sizes(apply_layers(layers, feature), ops.stop_gradient(target))
            check_channels(feature, target)
            missing = ops.where(target > 0, self.margin - feature, feature + self.margin)
            squares.append(ops.square(ops.relu(missing)))
        return _SCALE * sum_by_depth(squares)


def _make_regressor(student: Shape, teacher: Shape) -> list[Layer]:
    if student == teacher:
        return []
    channels = int(teacher[-1] or 0)
    size, wanted = student[:-1], teacher[:-1]
    resizing = [] if None in size or None in wanted else _resize_layers(size, wanted, channels)
    return [*(resizing or [make_convolution(channels, axes=len(student), bias=True)]), make_batch_norm()]


def _resize_layers(size: Any, wanted: Any, channels: int) -> list[Layer]:
    """Layers from one map size to another; none where the larger map is averaged down afterwards."""
    if not size or size == wanted:
        return []
    if all(a == 2 * b for a, b in zip(size, wanted, strict=True)):
        # One pixel on every side, as in the published code; "same" in Keras would add it on two sides only.
        return [make_layer(keras.layers.ZeroPadding2D, 1), make_layer(keras.layers.Conv2D, channels, 3, strides=2)]
    if all(2 * a == b for a, b in zip(size, wanted, strict=True)):
        return [make_layer(keras.layers.Conv2DTranspose, channels, 4, strides=2, padding="same")]
    windows = [1 + a - b for a, b in zip(size, wanted, strict=True)]
    if all(1 <= window <= _MAX_KERNEL for window in windows):
        return [make_layer(keras.layers.Conv2D, channels, windows)]
    return []
