"""Knowledge review: each student level is fused with the deeper ones before it is compared with the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import per_example
from kdcli.formulas.layer_pairs import pair_equal_features, pair_features
from kdcli.formulas.layers import apply_layers, make_batch_norm, make_convolution
from kdcli.formulas.map_sizes import average_pool, resize_to_nearest
from kdcli.lazy import ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.tensors import Layer, Tensor

# Sizes of the pooled maps that are compared in addition to the full ones.
_POOLED_SIZES = (4, 2, 1)
# Largest number of channels of a fusion.
_MAX_CHANNELS = 512
# Kernel initializer of the fusions.
_INITIALIZER = "lecun_uniform"


class Review(FeatureLoss):
    """Σ over levels of HCL(ABF(student level, what the deeper level passed on), teacher level).

    ABF, attention-based fusion: x = BN(1×1 conv of the level). With two attention maps z = sigmoid(1×1 conv of [x,
    y]), it becomes x · z₀ + y · z₁, where y is passed on by the deeper level and resized to x. x is then resized
    to the teacher's map and passed on, and BN(3×3 conv of x) is compared. The deepest level is not fused. HCL,
    hierarchical context loss: the mean of squares between the maps and, with the weights ½, ¼, ⅛, between both
    averaged to 4×4, 2×2 and 1×1 where the map is larger, divided by the sum of the weights. Maps are resized to
    the nearest neighbour. A vector is a map of one point, so that the pooled feature can be the last level. Called
    without `parts`, the loss is HCL alone, of features of equal shapes.

    Shapes: student, teacher (batch, h, w, channels) or (batch, channels), lists from shallow to deep → (batch,).

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("review", student_layer=["a", "b"], teacher_layer=["c", "d"]).teacher_layers
        ('c', 'd')
    """

    known_as: ClassVar[str] = "ReviewKD"
    paper: ClassVar[str] = "Chen et al. 2021, arXiv:2104.09044"
    axes: ClassVar[tuple[int, ...]] = (3, 1)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    # With a single example, a level of one point has no variance.
    least_batch: ClassVar[int] = 2
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["review"] = "review"

    def build(self, given: Given) -> Parts:
        """Build a fusion for each level; all but the deepest have attention."""
        channels = min(_MAX_CHANNELS, given.student[-1][-1] or 1)
        fusions = [
            _make_fusion(ours[-1], channels, theirs[-1], attends=place + 1 < len(given.student))
            for place, (ours, theirs) in enumerate(zip(given.student, given.teacher, strict=True))
        ]
        return Parts({"fusions": fusions})

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the sum of the distances of all levels, per example."""
        total: Tensor = 0.0
        if parts is NO_PARTS:
            for feature, target in pair_equal_features(student, teacher):
                total = total + _distance(_as_map(feature), ops.stop_gradient(_as_map(target)))
            return total
        levels = zip(pair_features(student, teacher), parts.trained["fusions"], strict=True)
        deeper = None
        for (feature, target), fusion in reversed(list(levels)):
            target = ops.stop_gradient(_as_map(target))
            fused, deeper = _fuse(_as_map(feature), deeper, fusion, target.shape[1:3])
            total = total + _distance(fused, target)
        return total


def _make_fusion(ours: int | None, channels: int, theirs: int | None, *, attends: bool) -> dict[str, Layer]:
    own = make_convolution(channels, start=_INITIALIZER)
    out = make_convolution(int(theirs or 0), 3, start=_INITIALIZER)
    fusion = {"own": own, "own_scale": make_batch_norm(), "out": out, "out_scale": make_batch_norm()}
    for name, width in (("own", ours), ("own_scale", channels), ("out", channels), ("out_scale", theirs)):
        fusion[name].build((None, None, None, width))
    if attends:
        fusion["attention"] = make_convolution(2, bias=True, activation="sigmoid")
        fusion["attention"].build((None, None, None, 2 * channels))
    return fusion


def _fuse(
    feature: Tensor, deeper: Tensor, fusion: Mapping[str, Layer], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The map that is compared with the teacher's, and the map that is passed on to the next level."""
    own = apply_layers([fusion["own"], fusion["own_scale"]], feature)
    if deeper is not None:
        deeper = resize_to_nearest(deeper, own.shape[1:3])
        attention = apply_layers([fusion["attention"]], ops.concatenate([own, deeper], axis=-1))
        own = own * attention[..., :1] + deeper * attention[..., 1:]
    own = resize_to_nearest(own, size)
    return apply_layers([fusion["out"], fusion["out_scale"]], own), own


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss of one level, per example."""
    weight, weights = 1.0, 1.0
    total = per_example(ops.square(student - teacher))
    for side in _POOLED_SIZES:
        if side < student.shape[1]:
            weight, size = weight / 2, (side, side)
            difference = average_pool(student, size) - average_pool(teacher, size)
            total = total + weight * per_example(ops.square(difference))
            weights += weight
    return total / weights


def _as_map(feature: Tensor) -> Tensor:
    return feature[:, None, None, :] if len(feature.shape) == 2 else feature
