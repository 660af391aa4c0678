"""Pixel operations that several augmentations share."""

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


def mask_box(centres: Any, *, size: tuple[int, int], sides: tuple[Any, Any]) -> Any:
    """Which pixels lie inside, a bool (batch, h, w).

    Args:
        centres: (batch, 2) from [0, 1): the middle, anywhere in the picture, down and right.
        size: height and width of the picture.
        sides: height and width of the box before it is cut off, each a number or (batch,) whole numbers.
    """
    rows = _inside(centres[:, 0], size[0], sides[0])
    columns = _inside(centres[:, 1], size[1], sides[1])
    return rows[:, :, None] & columns[:, None, :]


def _inside(centres: Any, length: int, side: Any) -> Any:
    side = tf.broadcast_to(tf.cast(side, tf.int32), tf.shape(centres))
    first = tf.cast(tf.floor(centres * length), tf.int32) - side // 2
    places = tf.range(length)[None, :]
    return (places >= first[:, None]) & (places < (first + side)[:, None])


def crop_window(images: Any, draws: Any, *, border: int) -> Any:
    """A window of the original size from each picture with a border of zeros around it.

    Args:
        images: (batch, h, w, channels) of any type.
        draws: (batch, 2) from [0, 1): where the window's upper left corner lies, down and right.
        border: width of the border in pixels; every place in it is equally likely.
    """
    height, width = images.shape[1], images.shape[2]
    corners = tf.cast(tf.floor(draws * (2 * border + 1)), tf.int32)
    padded = tf.pad(images, [[0, 0], [border, border], [border, border], [0, 0]])
    rows = corners[:, :1] + tf.range(height)[None, :]
    columns = corners[:, 1:2] + tf.range(width)[None, :]
    moved = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(moved, columns, axis=2, batch_dims=1)
