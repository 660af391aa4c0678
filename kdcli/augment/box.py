"""A rectangle in each picture, cut off at the border: what cutout and cutmix have in common."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import tf


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
