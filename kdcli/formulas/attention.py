"""Attention maps of features: the mean over the channels, as one unit vector per example."""

from __future__ import annotations

from kdcli.formulas.vectors import flatten_examples, limit_size, normalize_length
from kdcli.lazy import ops
from kdcli.tensors import Tensor


def attention_map(feature: Tensor, power: int) -> Tensor:
    """Average featureᵖ over the channels and normalise: (batch, ..., channels) → (batch, positions).

    Odd powers keep the sign, as in the published code.
    """
    # The result is independent of the scale, so large features are scaled down before they are raised to a power.
    feature = limit_size(feature, tuple(range(1, len(feature.shape))), largest=1.0)
    return normalize_length(flatten_examples(ops.mean(ops.power(feature, power), axis=-1)))
