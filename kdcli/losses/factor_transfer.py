"""Factor transfer: the student learns the factors that a paraphraser extracts from the teacher's map."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.attention import attention_map
from kdcli.formulas.convention import per_example
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.layers import (
    apply_layers,
    build_layers,
    get_pair_layers,
    make_batch_norm,
    make_convolution,
    make_layer,
)
from kdcli.formulas.map_sizes import match_sizes
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import Weight
from kdcli.tensors import Layer, Shape, Tensor

# With the default weight of 200, the reconstruction error has the weight 1.
RECONSTRUCTION_WEIGHT = 1 / 200
_NEGATIVE_SLOPE = 0.1


class FactorTransfer(FeatureLoss):
    """Mean of |A(F_s) − A(F_t)|^p2 over positions, where A(F) is the mean of F^p1 over channels, of norm 1.

    F_t is the paraphraser's factor of the teacher's map (three 3×3 convolutions), F_s the translator's factor of
    the student's map (the same with batch normalisation); the larger is averaged down to the size of the smaller.
    The paper trains the paraphraser beforehand; here it learns together with the student, and 1/200 of its squared
    reconstruction error of the teacher's map is part of the value. Called without `parts`, student and teacher are
    factors.

    Shapes: student, teacher (batch, h, w, channels), or lists of them; pairs are summed → (batch,).

    Args:
        k: channels of a factor as a fraction of the teacher's channels.
        p1: power in A.
        p2: power of the difference: 1 or 2.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("factor_transfer")
        >>> float(loss(student=[[[[1.0], [0.0]]]], teacher=[[[[0.0], [2.0]]]])[0])
        1.0
    """

    known_as: ClassVar[str] = "FT"
    paper: ClassVar[str] = "Kim et al. 2018, arXiv:1802.04977"
    axes: ClassVar[tuple[int, ...]] = (3,)
    family: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["factor_transfer"] = "factor_transfer"
    weight: Weight = 200.0
    k: Annotated[float, Field(gt=0, le=1)] = 0.5
    p1: Annotated[int, Field(gt=0)] = 2
    p2: Literal[1, 2] = 1

    def build(self, given: Given) -> Parts:
        """Build a paraphraser (encoder and decoder) and a translator for each pair."""
        encoders, decoders, translators = [], [], []
        for ours, theirs in zip(given.student, given.teacher, strict=True):
            channels = int(theirs[-1] or 0)
            inside = max(int(channels * self.k), 1)
            factor = (*theirs[:-1], inside)
            encoders.append(_make_chain((channels, inside, inside), theirs))
            decoders.append(_make_chain((inside, channels, channels), factor, transposed=True))
            translators.append(_make_chain((int(ours[-1] or 0), inside, inside), ours, normalized=True))
        return Parts({"translators": translators, "encoders": encoders, "decoders": decoders})

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the distance of the factors plus the paraphraser's own error, per example."""
        pairs = pair_features(student, teacher)
        names = ("translators", "encoders", "decoders")
        layers = (get_pair_layers(parts, name, len(pairs)) for name in names)
        total = 0.0
        for (feature, target), translator, encoder, decoder in zip(pairs, *layers, strict=True):
            target = ops.stop_gradient(target)
            factor = apply_layers(encoder, target)
            if decoder:
                again = ops.square(apply_layers(decoder, factor) - target)
                total = total + RECONSTRUCTION_WEIGHT * per_example(again)
            # The paraphraser learns from its own error only.
            ours, theirs = match_sizes(apply_layers(translator, feature), ops.stop_gradient(factor))
            error = ops.abs(attention_map(ours, self.p1) - attention_map(theirs, self.p1))
            total = total + per_example(error if self.p2 == 1 else ops.square(error))
        return total


def _make_chain(
    channels: tuple[int, int, int], shape: Shape, *, normalized: bool = False, transposed: bool = False
) -> list[Layer]:
    layers: list[Layer] = []
    for number in channels:
        if transposed:
            layers.append(make_layer(keras.layers.Conv2DTranspose, number, 3, padding="same"))
        else:
            layers.append(make_convolution(number, 3, bias=True))
        layers += [make_batch_norm()] if normalized else []
        layers.append(make_layer(keras.layers.LeakyReLU, negative_slope=_NEGATIVE_SLOPE))
    return build_layers(layers, shape)
