"""Classifier reuse: the student learns the input of the teacher's classifier, and reuses the classifier."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.convention import per_example
from kdcli.formulas.layer_pairs import pair_features
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
from kdcli.tensors import Layer, Shape, Tensor


class ClassifierReuse(FeatureLoss):
    """Mean of (P(student) − teacher)² over positions and channels, per example.

    P is a 1×1, a 3×3 and a 1×1 convolution, each with batch normalisation and ReLU, because the teacher's map
    follows a ReLU. The larger map is first averaged down to the size of the smaller. A run adds P and the
    teacher's classifier to the student: both are in the exported file and in the reported sizes. Called without
    `parts`, the student's map is the output of P.

    Shapes: student, teacher (batch, h, w, channels) → (batch,).

    Args:
        factor: the inner convolutions have the teacher's number of channels divided by this factor.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("classifier_reuse")
        >>> float(loss(student=[[[[1.0, 3.0]]]], teacher=[[[[1.0, 1.0]]]])[0])
        2.0
    """

    known_as: ClassVar[str] = "SimKD"
    paper: ClassVar[str] = "Chen et al. 2022, arXiv:2203.14001"
    axes: ClassVar[tuple[int, ...]] = (3,)
    grows_student: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, h, w, channels) → (batch,)"

    kind: Literal["classifier_reuse"] = "classifier_reuse"
    factor: Annotated[int, Field(gt=0)] = 2

    def projector(self, student: Shape, teacher: Shape) -> list[Layer]:
        """Build P for maps of these shapes, without the batch axis."""
        outer = int(teacher[-1] or 0)
        inner = max(outer // self.factor, 1)
        layers: list[Layer] = []
        for channels, size in ((inner, 1), (inner, 3), (outer, 1)):
            layers += [make_convolution(channels, size), make_batch_norm(), make_layer(keras.layers.ReLU)]
        return build_layers(layers, student)

    def build(self, given: Given) -> Parts:
        """Build a projector for each pair."""
        pairs = zip(given.student, given.teacher, strict=True)
        return Parts({"projector": [self.projector(ours, theirs) for ours, theirs in pairs]})

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the squared error per example; pairs are summed."""
        pairs = pair_features(student, teacher)
        projectors = get_pair_layers(parts, "projector", len(pairs))
        total = 0.0
        for (feature, target), layers in zip(pairs, projectors, strict=True):
            feature, target = match_sizes(feature, ops.stop_gradient(target))
            feature = apply_layers(layers, feature)
            check_channels(feature, target)
            total = total + per_example(ops.square(feature - target))
        return total
