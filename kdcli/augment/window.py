"""A window of each picture, at its own place: what shift and crop have in common."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import tf


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
