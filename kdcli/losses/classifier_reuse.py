"""Classifier reuse: the student learns the map that its teacher's classifier reads, and keeps the classifier."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.connector import (
    apply_layers,
    build_layers,
    check_channels,
    get_pair_layers,
    make_batch_norm,
    make_convolution,
    make_layer,
)
from kdcli.formulas.convention import per_example
from kdcli.formulas.matching import pair_features
from kdcli.formulas.pooling import match_sizes
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts, Shape


class ClassifierReuse(FeatureLoss):
    """Mean of (P(student) − teacher)² over positions and channels, per example.

    P is 1×1, 3×3 and 1×1 convolutions, each with batch normalisation and ReLU: the teacher's map is one after a
    ReLU. The larger map is averaged down to the smaller first. In a run the student keeps P and the teacher's
    classifier: both are in the file that ships, and the report counts them. Called without `parts`, the student's
    map is P's result already.

    Shapes: student, teacher (batch, h, w, channels) → (batch,).

    Args:
        factor: the inner convolutions have the teacher's channels divided by this number.

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

    def projector(self, student: Shape, teacher: Shape) -> list[Any]:
        """P for maps of these shapes (without the batch axis), as built layers."""
        wanted = int(teacher[-1] or 0)
        inner = max(wanted // self.factor, 1)
        layers: list[Any] = []
        for channels, size in ((inner, 1), (inner, 3), (wanted, 1)):
            layers += [make_convolution(channels, size), make_batch_norm(), make_layer(keras.layers.ReLU)]
        return build_layers(layers, student)

    def build(self, given: Given) -> Parts:
        """A projector for the pair."""
        pairs = zip(given.student, given.teacher, strict=True)
        return Parts({"projector": [self.projector(ours, theirs) for ours, theirs in pairs]})

    def __call__(self, *, student: Any, teacher: Any, parts: Parts = NO_PARTS, **_: Any) -> Any:
        """The squared error, per example; pairs are summed."""
        pairs = pair_features(student, teacher)
        projectors = get_pair_layers(parts, "projector", len(pairs))
        total = 0.0
        for (feature, target), layers in zip(pairs, projectors, strict=True):
            feature, target = match_sizes(feature, ops.stop_gradient(target))
            feature = apply_layers(layers, feature)
            check_channels(feature, target)
            total = total + per_example(ops.square(feature - target))
        return total
