"""Feature overhaul: features before the activation, without exact imitation of the teacher's negative values."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import require_parts
from kdcli.formulas.layer_pairs import pair_features, sum_by_depth
from kdcli.formulas.layers import apply_layers, build_layers, check_channels, make_batch_norm, make_convolution
from kdcli.formulas.map_sizes import average_pool
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import Weight
from kdcli.tensors import Tensor

# Channels with a smaller probability of negative values have a margin of three deviations.
_MIN_PROBABILITY = 0.001


class FeatureOverhaul(FeatureLoss):
    """Σ (r − t)² over a feature, where t = max(teacher, m); nothing where r ≤ t and the teacher is not above 0.

    r = R(student), a convolution with batch normalisation. The margin m of each channel is the mean of the
    teacher's negative values, computed from its batch normalisation: E[x | x < 0] for a normal x with that scale
    and shift. The teacher's map is averaged down to the student's size. The i-th of n pairs has the weight 2^(i −
    n), so deeper pairs count more. Features before their activation are compared.

    Shapes: student, teacher (batch, h, w, channels) or (batch, channels), or lists of them → (batch,).

    Args:
        kernel_size: kernel size of R in pixels: 1, 3, 5 or 7.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("feature_overhaul").weight
        0.001
    """

    known_as: ClassVar[str] = "OFD"
    paper: ClassVar[str] = "Heo et al. 2019, arXiv:1904.01866"
    axes: ClassVar[tuple[int, ...]] = (3, 1)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    before_activation: ClassVar[bool] = True
    needs_normalization: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["feature_overhaul"] = "feature_overhaul"
    weight: Weight = 0.001
    kernel_size: Literal[1, 3, 5, 7] = 1

    def build(self, given: Given) -> Parts:
        """Build a connector and the margins for each pair.

        Raises:
            ValueError: scale and shift of a teacher's batch normalisation are missing.
        """
        known = given.normalizations
        if len(known) != len(given.teacher) or any(one is None for one in known):
            raise ValueError(
                "feature_overhaul needs the teacher's batch normalisation for its margins: "
                "Given(..., normalizations=[(scale, shift), ...]), one for each teacher feature"
            )
        connectors, margins = [], []
        for ours, theirs, normalized in zip(given.student, given.teacher, known, strict=True):
            channels = int(theirs[-1] or 0)
            layers = [make_convolution(channels, self.kernel_size, axes=len(ours)), make_batch_norm()]
            connectors.append(build_layers(layers, ours))
            assert normalized is not None
            start = compute_margins(*normalized)
            # Always in float32, as the published margins are.
            margins.append(
                keras.Variable(start, shape=(channels,), dtype="float32", trainable=False, name="margin")
            )
        return Parts({"connectors": connectors}, {"margins": margins})

    def __call__(self, *, student: Tensor, teacher: Tensor, parts: Parts = NO_PARTS, **_: Any) -> Tensor:
        """Return the squared error per example."""
        own = require_parts(parts, self)
        layers_and_margins = zip(own.trained["connectors"], own.kept["margins"], strict=True)
        pairs, squares = pair_features(student, teacher), []
        for (feature, target), (layers, margin) in zip(pairs, layers_and_margins, strict=True):
            feature, target = apply_layers(layers, feature), ops.stop_gradient(target)
            check_channels(feature, target)
            if len(feature.shape) == 4:
                target = average_pool(target, tuple(feature.shape[1:3]))
            error = feature - ops.maximum(target, ops.cast(margin, target.dtype))
            squares.append(ops.square(ops.where(target > 0, error, ops.relu(error))))
        return sum_by_depth(squares)


def compute_margins(scale: Any, shift: Any) -> list[float]:
    """Return the mean of each channel's negative values.

    Args:
        scale, shift: parameters (channels,) of a batch normalisation, which are the channels' standard deviation
            (its sign is ignored) and mean.
    """
    scales, shifts = (ops.convert_to_numpy(numbers).tolist() for numbers in (scale, shift))
    return [_mean_below_zero(abs(deviation), mean) for deviation, mean in zip(scales, shifts, strict=True)]


def _mean_below_zero(deviation: float, mean: float) -> float:
    """E[x | x < 0] for a normal x; three deviations below 0 where negative values hardly occur."""
    if deviation == 0:
        return min(mean, 0.0)
    place = mean / deviation
    probability = math.erfc(place / math.sqrt(2)) / 2
    if probability <= _MIN_PROBABILITY:
        return -3 * deviation
    return mean - deviation * math.exp(-place * place / 2) / math.sqrt(2 * math.pi) / probability
