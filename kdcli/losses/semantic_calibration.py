"""Semantic calibration: every student layer learns from all teacher layers, weighted by attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.convention import per_example, require_parts
from kdcli.formulas.layer_pairs import list_features
from kdcli.formulas.layers import (
    apply_layers,
    build_layers,
    make_batch_norm,
    make_convolution,
    make_dense,
    make_layer,
)
from kdcli.formulas.map_sizes import match_sizes
from kdcli.formulas.vectors import flatten_examples, normalize_length
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import PositiveFloat, Weight
from kdcli.tensors import Layer, Shape, Tensor


class SemanticCalibration(FeatureLoss):
    """Mean over examples and student layers s of Σ over teacher layers t of a(s, t) · |R(s) − t|².

    a(s, t), for each example, is the softmax over t of q(s) · k(t) / soft. q and k are small networks, one per
    layer, with outputs of length 1; they read the example's similarities (inner products of whole features) with
    the batch. R, one per pair of layers, is 1×1, 3×3 and 1×1 convolutions with batch normalisation and ReLU
    between them; |·|² is a mean, and the larger map is averaged down to the size of the smaller.

    Shapes: student, teacher (batch, h, w, channels), or lists of them of any length → scalar. The batch is at most
    the one that the parts are built for; in a smaller one, the missing similarities are 0.

    Args:
        soft: divisor of the products of q and k.
        factor: q and k have as many outputs as there are examples in a batch, divided by this number.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("semantic_calibration").weight
        400.0
    """

    known_as: ClassVar[str] = "SemCKD"
    paper: ClassVar[str] = "Chen et al. 2021, arXiv:2012.03236"
    whole_batch: ClassVar[bool] = True
    one_device: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = False
    # With fewer, a map of one point has no variance.
    least_batch: ClassVar[int] = 2
    axes: ClassVar[tuple[int, ...]] = (3,)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    # With a single teacher layer, attention has no choice.
    least_pairs: ClassVar[int] = 2
    all_with_all: ClassVar[bool] = True
    shape_text: ClassVar[str] = "student, teacher (batch, h, w, channels), or lists of them of any length → scalar"

    kind: Literal["semantic_calibration"] = "semantic_calibration"
    weight: Weight = 400.0
    soft: PositiveFloat = 1.0
    factor: Annotated[int, Field(ge=1)] = 4

    def build(self, given: Given) -> Parts:
        """Build a query network per student layer, a key network per teacher layer, and a regressor per pair."""
        size = max(given.batch // self.factor, 1)
        return Parts(
            {
                "queries": [_make_perceptron(given.batch, size) for _ in given.student],
                "keys": [_make_perceptron(given.batch, size) for _ in given.teacher],
                "regressors": [
                    [_make_regressor(ours, theirs) for theirs in given.teacher] for ours in given.student
                ],
            }
        )

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the distances, weighted by attention, a scalar."""
        own = require_parts(parts, self).trained
        students, targets = list_features(student, teacher)
        teachers = [ops.stop_gradient(target) for target in targets]
        attention = self._attention(students, teachers, own)
        distances = []
        for feature, regressors in zip(students, own["regressors"], strict=True):
            row = []
            for target, layers in zip(teachers, regressors, strict=True):
                ours, theirs = match_sizes(feature, target)
                row.append(per_example(ops.square(apply_layers(layers, ours) - theirs)))
            distances.append(ops.stack(row, axis=-1))
        return ops.mean(ops.sum(attention * ops.stack(distances, axis=1), axis=-1))

    def _attention(self, students: Sequence[Any], teachers: Sequence[Any], own: Mapping[str, Any]) -> Tensor:
        """Attention (batch, student layers, teacher layers), with the sum 1 over the teacher layers."""
        queries, keys = (
            ops.stack(
                [_embed_similarities(layers, feature) for layers, feature in zip(networks, side, strict=True)],
                axis=1,
            )
            for networks, side in ((own["queries"], students), (own["keys"], teachers))
        )
        energies = ops.einsum("bsf,btf->bst", queries, keys) / self.soft
        # The softmax of Keras would warn about a single teacher layer, which gets all the attention.
        return ops.exp(energies - ops.logsumexp(energies, axis=-1, keepdims=True))


def _embed_similarities(layers: Sequence[Layer], feature: Tensor) -> Tensor:
    """The direction that a network assigns to each example's similarities with the batch."""
    flat = flatten_examples(feature)
    similarities = ops.matmul(flat, ops.transpose(flat))
    missing = layers[0].kernel.shape[0] - similarities.shape[1]
    if missing < 0:
        raise ValueError(
            f"semantic_calibration was built for batches of {layers[0].kernel.shape[0]}, "
            f"got {similarities.shape[1]} examples: set Given(..., batch=...)"
        )
    return normalize_length(apply_layers(layers, ops.pad(similarities, ((0, 0), (0, missing)))))


def _make_perceptron(inputs: int, outputs: int) -> list[Layer]:
    return build_layers([make_dense(2 * outputs, activation="relu"), make_dense(outputs)], (inputs,))


def _make_regressor(ours: Shape, theirs: Shape) -> list[Layer]:
    channels = int(theirs[-1] or 1)
    layers = [make_convolution(2 * channels, 1), make_batch_norm(), make_layer(keras.layers.ReLU)]
    layers += [make_convolution(2 * channels, 3), make_batch_norm(), make_layer(keras.layers.ReLU)]
    return build_layers([*layers, make_convolution(channels, 1)], (None, None, ours[-1]))
