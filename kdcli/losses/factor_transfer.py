"""Factor transfer: the student learns the factors that a paraphraser finds in the teacher's map."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.attention import attention_map
from kdcli.formulas.connector import (
    apply_layers,
    build_layers,
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
from kdcli.spec import Weight

# With the usual weight of 200 what the paraphraser learns counts once.
RECONSTRUCTION_WEIGHT = 1 / 200
SLOPE = 0.1


class FactorTransfer(FeatureLoss):
    """Mean of |A(F_s) − A(F_t)|^p2 over positions, where A(F) is the mean of F^p1 over channels, of norm 1.

    F_t is the paraphraser's factor of the teacher's map (three 3×3 convolutions), F_s the translator's of the
    student's (the same with batch normalisation); the larger is averaged down to the smaller. The paper trains the
    paraphraser beforehand; here it learns while the student does, and 1/200 of its squared error in giving the
    teacher's map back is part of the value. Called without `parts`, student and teacher are factors already.

    Shapes: student, teacher (batch, h, w, channels), or lists of them; pairs are summed → (batch,).

    Args:
        k: channels of a factor as a share of the teacher's.
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
        """A paraphraser (encoder, decoder) and a translator for each pair."""
        encoders, decoders, translators = [], [], []
        for ours, theirs in zip(given.student, given.teacher, strict=True):
            channels = int(theirs[-1] or 0)
            inside = max(int(channels * self.k), 1)
            factor = (*theirs[:-1], inside)
            encoders.append(_chain((channels, inside, inside), theirs))
            decoders.append(_chain((inside, channels, channels), factor, transposed=True))
            translators.append(_chain((int(ours[-1] or 0), inside, inside), ours, normalized=True))
        return Parts({"translators": translators, "encoders": encoders, "decoders": decoders})

    def __call__(self, *, student: Any, teacher: Any, parts: Parts = NO_PARTS, **_: Any) -> Any:
        """The distance of the factors and the paraphraser's own error, per example."""
        pairs = pair_features(student, teacher)
        names = ("translators", "encoders", "decoders")
        owns = (get_pair_layers(parts, name, len(pairs)) for name in names)
        total = 0.0
        for (feature, target), translator, encoder, decoder in zip(pairs, *owns, strict=True):
            target = ops.stop_gradient(target)
            factor = apply_layers(encoder, target)
            if decoder:
                again = ops.square(apply_layers(decoder, factor) - target)
                total = total + RECONSTRUCTION_WEIGHT * per_example(again)
            # The paraphraser learns from its own error alone.
            ours, theirs = match_sizes(apply_layers(translator, feature), ops.stop_gradient(factor))
            error = ops.abs(attention_map(ours, self.p1) - attention_map(theirs, self.p1))
            total = total + per_example(error if self.p2 == 1 else ops.square(error))
        return total


def _chain(
    channels: tuple[int, int, int], shape: Shape, *, normalized: bool = False, transposed: bool = False
) -> list[Any]:
    layers: list[Any] = []
    for number in channels:
        if transposed:
            layers.append(make_layer(keras.layers.Conv2DTranspose, number, 3, padding="same"))
        else:
            layers.append(make_convolution(number, 3, bias=True))
        layers += [make_batch_norm()] if normalized else []
        layers.append(make_layer(keras.layers.LeakyReLU, negative_slope=SLOPE))
    return build_layers(layers, shape)
