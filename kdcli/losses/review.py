"""Knowledge review: each student level is fused with the deeper ones before it meets the teacher's level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from kdcli.formulas.connector import apply_layers, make_batch_norm, make_convolution
from kdcli.formulas.convention import per_example
from kdcli.formulas.matching import pair_equal_features, pair_features
from kdcli.formulas.pooling import average_pool, resize_to_nearest
from kdcli.lazy import ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts

# Sides of the pooled maps that are compared beside the whole ones.
SIDES = (4, 2, 1)
# Channels that levels are fused in, at most.
WIDEST = 512
# What their kernels are drawn from.
START = "lecun_uniform"


class Review(FeatureLoss):
    """Σ over levels of HCL(ABF(student level, what the deeper level passed on), teacher level).

    ABF, attention-based fusion: x = BN(1×1 conv of the level); with two attention maps z = sigmoid(1×1 conv of
    [x, y]) it becomes x · z₀ + y · z₁, where y is what the deeper level passed on, resized to x; x is then resized
    to the teacher's map and passed on, and BN(3×3 conv of x) is compared. The deepest level has nothing to be
    fused with. HCL, hierarchical context: the mean of squares between the maps and, with weights ½, ¼, ⅛, between
    both averaged to 4×4, 2×2, 1×1 where the map is larger, divided by the sum of the weights. Maps are resized to
    the nearest point. A vector is a map of one point, so that what is left after pooling can be the last level.
    Called without `parts`, it is HCL alone, of features of equal shapes.

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
    # Of one example a level of one point has no variance.
    least_batch: ClassVar[int] = 2
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["review"] = "review"

    def build(self, given: Given) -> Parts:
        """A fusion for each level; all but the deepest have attention."""
        channels = min(WIDEST, given.student[-1][-1] or 1)
        fusions = [
            _fusion(ours[-1], channels, theirs[-1], attends=place + 1 < len(given.student))
            for place, (ours, theirs) in enumerate(zip(given.student, given.teacher, strict=True))
        ]
        return Parts({"fusions": fusions})

    def __call__(self, *, student: Any, teacher: Any, parts: Parts = NO_PARTS, **_: Any) -> Any:
        """The distances of all levels, per example."""
        total: Any = 0.0
        if parts is NO_PARTS:
            for feature, target in pair_equal_features(student, teacher):
                total = total + _distance(_as_map(feature), ops.stop_gradient(_as_map(target)))
            return total
        levels = zip(pair_features(student, teacher), parts.trained["fusions"], strict=True)
        deeper = None
        for (feature, target), fusion in reversed(list(levels)):
            target = ops.stop_gradient(_as_map(target))
            fused, deeper = _fused(_as_map(feature), deeper, fusion, target.shape[1:3])
            total = total + _distance(fused, target)
        return total


def _fusion(ours: Any, channels: int, theirs: Any, *, attends: bool) -> dict[str, Any]:
    own = make_convolution(channels, start=START)
    out = make_convolution(theirs, 3, start=START)
    fusion = {"own": own, "own_scale": make_batch_norm(), "out": out, "out_scale": make_batch_norm()}
    for name, width in (("own", ours), ("own_scale", channels), ("out", channels), ("out_scale", theirs)):
        fusion[name].build((None, None, None, width))
    if attends:
        fusion["attention"] = make_convolution(2, bias=True, activation="sigmoid")
        fusion["attention"].build((None, None, None, 2 * channels))
    return fusion


def _fused(feature: Any, deeper: Any, fusion: Mapping[str, Any], size: tuple[int, int]) -> tuple[Any, Any]:
    """What is compared with the teacher, and what is passed on to the level above."""
    own = apply_layers([fusion["own"], fusion["own_scale"]], feature)
    if deeper is not None:
        deeper = resize_to_nearest(deeper, own.shape[1:3])
        attention = apply_layers([fusion["attention"]], ops.concatenate([own, deeper], axis=-1))
        own = own * attention[..., :1] + deeper * attention[..., 1:]
    own = resize_to_nearest(own, size)
    return apply_layers([fusion["out"], fusion["out_scale"]], own), own


def _distance(student: Any, teacher: Any) -> Any:
    """The hierarchical context loss of one level, per example."""
    weight, weights = 1.0, 1.0
    total = per_example(ops.square(student - teacher))
    for side in SIDES:
        if side < student.shape[1]:
            weight, size = weight / 2, (side, side)
            total = total + weight * per_example(
                ops.square(average_pool(student, size) - average_pool(teacher, size))
            )
            weights += weight
    return total / weights


def _as_map(feature: Any) -> Any:
    return feature[:, None, None, :] if len(feature.shape) == 2 else feature
