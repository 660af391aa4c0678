"""Arithmetic on pixels: computed in float32, given back in the type that they are stored in."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import tf


def cast_to_stored(values: Any, dtype: Any) -> Any:
    """Computed float32 pixels in their stored type: integers are rounded and clipped to the type's range."""
    if dtype.is_floating:
        return tf.cast(values, dtype)
    if dtype.is_bool:
        return values >= 0.5
    return tf.saturate_cast(tf.round(values), dtype)


def white_level(dtype: Any) -> float:
    """What white is: 255 for `uint8`, 1 for floats, the largest value of other integers."""
    return 1.0 if dtype.is_floating or dtype.is_bool else float(dtype.max)
