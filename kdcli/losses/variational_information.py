"""Variational information: the student's feature predicts the teacher's, with a learned variance."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import per_example, require_parts
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.layers import apply_layers, build_layers, make_dense
from kdcli.formulas.map_sizes import match_sizes
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.tensors import Tensor

# Variance at the start of training, and its lower bound.
_START_VARIANCE, _MIN_VARIANCE = 5.0, 1e-5


class VariationalInformation(FeatureLoss):
    """½ · ((μ(student) − teacher)² / σ² + log σ²), mean over positions and channels; pairs are summed.

    μ is three dense layers over the channels with ReLU between them; σ² = softplus(s) + 1e-5 is learned for each
    of the teacher's channels, starting at 5. The larger map is averaged down to the size of the smaller. The value
    may be negative.

    Shapes: student, teacher (batch, ..., channels) → (batch,).

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("variational_information").weight
        1.0
    """

    known_as: ClassVar[str] = "VID"
    paper: ClassVar[str] = "Ahn et al. 2019, arXiv:1904.05835"
    notes: ClassVar[tuple[str, ...]] = ("With a fixed variance and one linear layer it is `hint`.",)
    non_negative: ClassVar[bool] = False
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["variational_information"] = "variational_information"

    def build(self, given: Given) -> Parts:
        """Build a regressor and the variances for each pair."""
        regressors, spreads = [], []
        for ours, theirs in zip(given.student, given.teacher, strict=True):
            channels = int(theirs[-1] or 0)
            layers = [make_dense(channels, activation=name, bias=False) for name in ("relu", "relu", None)]
            regressors.append(build_layers(layers, ours[-1:]))
            start = keras.initializers.Constant(math.log(math.expm1(_START_VARIANCE - _MIN_VARIANCE)))
            spreads.append(keras.Variable(start, shape=theirs[-1:], name="variance"))
        return Parts({"regressors": regressors, "spreads": spreads})

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the negative log-likelihood without its constant, per example."""
        total = 0.0
        own = require_parts(parts, self).trained
        layers_and_spreads = zip(own["regressors"], own["spreads"], strict=True)
        for (feature, target), (layers, spread) in zip(
            pair_features(student, teacher), layers_and_spreads, strict=True
        ):
            feature, target = match_sizes(feature, ops.stop_gradient(target))
            feature = apply_layers(layers, feature)
            variance = ops.cast(ops.softplus(spread) + _MIN_VARIANCE, feature.dtype)
            total = total + per_example(0.5 * (ops.square(feature - target) / variance + ops.log(variance)))
        return total
