"""Adversarial matching: a discriminator learns to tell student and teacher apart, the student to deceive it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from kdcli.formulas.convention import require_parts
from kdcli.formulas.layer_pairs import pair_equal_features
from kdcli.formulas.layers import apply_layers, build_layers, make_dense
from kdcli.lazy import keras, ops, tf
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import Weight, value_at
from kdcli.tensors import Layer, Optimizer, Shape, Tensor, Variable


class Adversarial(FeatureLoss):
    """softplus(−D(student)): −log of the probability that the discriminator D assigns to "this is the teacher".

    After the value is computed, D takes one step of its own, with Adam, to reduce the mean over the batch of
    softplus(−D(teacher)) + softplus(D(student)) + penalty / 2 · |∇D(teacher)|². The last term is R1 (Mescheder et
    al. 2018, arXiv:1801.04406): it keeps the slope of D at the teacher's outputs small, so that D cannot become
    trivially strong and training settles once student and teacher are alike. D has two dense layers over the
    channels with leaky ReLU, the mean over the positions, and a dense layer with one output. Each pair has its own
    discriminator; the pairs are summed.

    Shapes: student, teacher (batch, ..., channels), equal after projection, or logits → (batch,).

    Args:
        on: `features`, or `logits`, which need no layers.
        units: width of D.
        learning_rate: learning rate of D, a number or a `Change`.
        momentum: momentum of D's gradient in Adam; low, because the student changes at the same time.
        penalty: weight of R1; 0 disables it.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("adversarial", on="logits").on_logits
        True
    """

    known_as: ClassVar[str] = "adversarial network compression"
    paper: ClassVar[str] = "Belagiannis et al. 2018, arXiv:1803.10750"
    keeps: ClassVar[tuple[str, ...]] = ("discriminator",)
    one_device: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = False
    projects: ClassVar[bool] = True

    kind: Literal["adversarial"] = "adversarial"
    weight: Weight = 0.1
    on: Literal["features", "logits"] = "features"
    units: Annotated[int, Field(ge=1)] = 64
    learning_rate: Weight = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    penalty: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _check_layers(self) -> Adversarial:
        if self.on == "logits" and (self.teacher_layer is not None or self.student_layer is not None):
            raise ValueError("teacher_layer and student_layer need on: features")
        return self

    @property
    def on_logits(self) -> bool:
        """Whether the loss compares outputs instead of inner layers."""
        return self.on == "logits"

    def build(self, given: Given) -> Parts:
        """Build a discriminator for each pair, and one optimizer for all of them."""
        discriminators = [_make_discriminator(shape, self.units) for shape in given.teacher]
        optimizer = keras.optimizers.Adam(float(value_at(self.learning_rate, 0.0)), beta_1=self.momentum)
        optimizer.build(_list_weights(discriminators))
        return Parts(kept={"discriminators": discriminators, "optimizer": optimizer})

    def __call__(
        self, *, student: Tensor, teacher: Tensor, progress: Tensor = 0.0, parts: Parts = NO_PARTS, **_: Any
    ) -> Tensor:
        """Return the loss per example, then train the discriminators for one step."""
        owns = require_parts(parts, self).kept
        students, teachers = zip(*pair_equal_features(student, teacher), strict=True)
        total: Tensor = 0.0
        for layers, feature in zip(owns["discriminators"], students, strict=True):
            total = total + ops.softplus(-_score(layers, feature))
        self._train(students, teachers, owns["discriminators"], owns["optimizer"], progress)
        return total

    def _train(
        self, students: Any, teachers: Any, discriminators: Sequence[Any], optimizer: Optimizer, progress: Tensor
    ) -> None:
        """Train the discriminators for one step, without a gradient to the student."""
        weights = _list_weights(discriminators)
        with tf.GradientTape() as tape:
            total: Tensor = 0.0
            for layers, feature, target in zip(discriminators, students, teachers, strict=True):
                total = total + self._error(layers, ops.stop_gradient(feature), ops.stop_gradient(target))
        slopes = tape.gradient(total, [weight.value for weight in weights])
        optimizer.learning_rate = value_at(self.learning_rate, progress)
        optimizer.apply(slopes, weights)

    def _error(self, layers: Sequence[Layer], student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of a discriminator."""
        with tf.GradientTape() as tape:
            tape.watch(teacher)
            score = _score(layers, teacher)
        error = ops.softplus(-score) + ops.softplus(_score(layers, student))
        if self.penalty > 0:
            slope = tape.gradient(score, teacher)
            error = error + self.penalty / 2 * ops.sum(ops.square(slope), axis=tuple(range(1, slope.ndim)))
        return ops.mean(error)


def _make_discriminator(shape: Shape, units: int) -> list[Layer]:
    return build_layers([make_dense(size) for size in (units, units, 1)], shape[-1:])


def _score(layers: Sequence[Layer], feature: Tensor) -> Tensor:
    """The discriminator's logit (batch,): above 0 for the teacher."""
    *hidden, last = layers
    for layer in hidden:
        feature = ops.leaky_relu(apply_layers([layer], feature), negative_slope=0.2)
    if len(feature.shape) > 2:
        feature = ops.mean(feature, axis=tuple(range(1, len(feature.shape) - 1)))
    return apply_layers([last], feature)[:, 0]


def _list_weights(discriminators: Sequence[Any]) -> list[Variable]:
    return [weight for layers in discriminators for layer in layers for weight in layer.trainable_variables]
