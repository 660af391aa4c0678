"""Pixel operations that several augmentations share: computed in float32, stored in the original type."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import tf
from kdcli.tensors import Tensor


def cast_to_stored(values: Tensor, dtype: Any) -> Tensor:
    """Cast computed float32 pixels to their stored type; integers are rounded and clipped to its range."""
    if dtype.is_floating:
        return tf.cast(values, dtype)
    if dtype.is_bool:
        return values >= 0.5
    return tf.saturate_cast(tf.round(values), dtype)


def white_level(dtype: Any) -> float:
    """Return the value of white: 255 for `uint8`, 1 for floats, the largest value of other integer types."""
    return 1.0 if dtype.is_floating or dtype.is_bool else float(dtype.max)


def mask_box(centres: Tensor, *, size: tuple[int, int], sides: tuple[Tensor | int, Tensor | int]) -> Tensor:
    """Mask a rectangle in each image, clipped at the border: a bool (batch, h, w).

    Args:
        centres: (batch, 2) from [0, 1): centre of the rectangle, down and right.
        size: height and width of the image.
        sides: height and width of the rectangle before clipping, each an integer or (batch,) integers.
    """
    rows = _mask_interval(centres[:, 0], size[0], sides[0])
    columns = _mask_interval(centres[:, 1], size[1], sides[1])
    return rows[:, :, None] & columns[:, None, :]


def _mask_interval(centres: Tensor, length: int, side: Tensor | int) -> Tensor:
    side = tf.broadcast_to(tf.cast(side, tf.int32), tf.shape(centres))
    first = tf.cast(tf.floor(centres * length), tf.int32) - side // 2
    positions = tf.range(length)[None, :]
    return (positions >= first[:, None]) & (positions < (first + side)[:, None])


def crop_window(images: Tensor, draws: Tensor, *, border: int) -> Tensor:
    """Pad images with zeros and crop a window of the original size from each.

    Args:
        images: (batch, h, w, channels) of any type.
        draws: (batch, 2) from [0, 1): position of the window, down and right; all positions are equally likely.
        border: width of the padding, in pixels.
    """
    height, width = images.shape[1], images.shape[2]
    corners = tf.cast(tf.floor(draws * (2 * border + 1)), tf.int32)
    padded = tf.pad(images, [[0, 0], [border, border], [border, border], [0, 0]])
    rows = corners[:, :1] + tf.range(height)[None, :]
    columns = corners[:, 1:2] + tf.range(width)[None, :]
    moved = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(moved, columns, axis=2, batch_dims=1)
