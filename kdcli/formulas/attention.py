"""Where a network looks: its features without their channels, as one direction for each example."""

from __future__ import annotations

from typing import Any

from kdcli.formulas.rows import flatten_examples, limit_size, normalize_length
from kdcli.lazy import ops


def attention_map(feature: Any, power: int) -> Any:
    """The mean over the channels of featureᵖ, of length 1: (batch, ..., channels) → (batch, positions).

    Odd powers keep the sign, as in the published code.
    """
    # What is divided by its length has no scale: high powers of large features are brought into range.
    feature = limit_size(feature, tuple(range(1, len(feature.shape))), largest=1.0)
    return normalize_length(flatten_examples(ops.mean(ops.power(feature, power), axis=-1)))
