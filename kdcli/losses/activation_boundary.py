"""Activation boundaries: the student's units are on where the teacher's are on, with a margin."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.connector import (
    apply_layers,
    build_layers,
    check_channels,
    get_pair_layers,
    make_batch_norm,
    make_convolution,
    make_layer,
)
from kdcli.formulas.depth import sum_by_depth
from kdcli.formulas.matching import pair_features
from kdcli.formulas.pooling import match_sizes
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts, Shape
from kdcli.spec import PositiveFloat

# What the published code multiplies the sum with.
SHARE = 3 / 1000
# A window beyond this is no regressor any more: the map is averaged down instead.
LARGEST_WINDOW = 7


class ActivationBoundary(FeatureLoss):
    """3/1000 · Σ max(0, m − r)² where the teacher is above 0, max(0, r + m)² elsewhere; summed over a feature.

    r = R(student) and m the margin. R is a convolution and batch normalisation (dense for vectors); nothing where
    the shapes are equal. Its window is 3×3 with stride 2 for a student's map of twice the teacher's size, 4×4 and
    transposed for one of half, else as large as leads from the one size to the other. Of n pairs the i-th counts
    2^(i − n): deeper ones more. Layers before their activation are meant.

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
        """A regressor for each pair."""
        pairs = zip(given.student, given.teacher, strict=True)
        return Parts({"regressors": [build_layers(_regressor(ours, theirs), ours) for ours, theirs in pairs]})

    def __call__(self, *, student: Any, teacher: Any, parts: Parts = NO_PARTS, **_: Any) -> Any:
        """The hinge, per example; without parts the student's features are regressed already."""
        pairs, squares = pair_features(student, teacher), []
        regressors = get_pair_layers(parts, "regressors", len(pairs))
        for (feature, target), layers in zip(pairs, regressors, strict=True):
            feature, target = match_sizes(apply_layers(layers, feature), ops.stop_gradient(target))
            check_channels(feature, target)
            missing = ops.where(target > 0, self.margin - feature, feature + self.margin)
            squares.append(ops.square(ops.relu(missing)))
        return SHARE * sum_by_depth(squares)


def _regressor(student: Shape, teacher: Shape) -> list[Any]:
    if student == teacher:
        return []
    channels = int(teacher[-1] or 0)
    size, wanted = student[:-1], teacher[:-1]
    between = [] if None in size or None in wanted else _between(size, wanted, channels)
    return [*(between or [make_convolution(channels, axes=len(student), bias=True)]), make_batch_norm()]


def _between(size: Any, wanted: Any, channels: int) -> list[Any]:
    """Layers from one size of a map to another; none where the larger is averaged down at the end."""
    if not size or size == wanted:
        return []
    if all(a == 2 * b for a, b in zip(size, wanted, strict=True)):
        # A pixel on every side, as in the published code; Keras' own "same" has one on two sides only.
        return [make_layer(keras.layers.ZeroPadding2D, 1), make_layer(keras.layers.Conv2D, channels, 3, strides=2)]
    if all(2 * a == b for a, b in zip(size, wanted, strict=True)):
        return [make_layer(keras.layers.Conv2DTranspose, channels, 4, strides=2, padding="same")]
    windows = [1 + a - b for a, b in zip(size, wanted, strict=True)]
    if all(1 <= window <= LARGEST_WINDOW for window in windows):
        return [make_layer(keras.layers.Conv2D, channels, windows)]
    return []
