"""Random rotation of images."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import cast_to_stored
from kdcli.lazy import tf
from kdcli.spec import Augment, PositiveFloat
from kdcli.tensors import Tensor


class Rotate(Augment):
    """Rotate each image around its centre by up to ± `degrees`, bilinear; uncovered pixels become zero.

    Args:
        degrees: largest angle.
    """

    draws: ClassVar[int] = 1

    kind: Literal["rotate"] = "rotate"
    degrees: Annotated[PositiveFloat, Field(le=180)] = 15.0

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Rotate images (batch, h, w, channels) of any type by draws (batch, 1)."""
        angles = (2.0 * draws[:, 0] - 1.0) * (self.degrees * math.pi / 180.0)
        height, width = images.shape[1], images.shape[2]
        rows, columns = _find_origins(angles, height, width)
        return cast_to_stored(_interpolate(tf.cast(images, tf.float32), rows, columns), images.dtype)


def _find_origins(angles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Find the origin of each pixel of the rotated images: rows and columns (batch, h, w)."""
    down = tf.range(height, dtype=tf.float32)[None, :, None] - (height - 1) / 2
    right = tf.range(width, dtype=tf.float32)[None, None, :] - (width - 1) / 2
    cosine, sine = tf.cos(angles)[:, None, None], tf.sin(angles)[:, None, None]
    rows = cosine * down - sine * right + (height - 1) / 2
    columns = sine * down + cosine * right + (width - 1) / 2
    return rows, columns


def _interpolate(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Interpolate images (batch, h, w, channels) at rows and columns (batch, h, w), bilinear; zero outside."""
    height, width, channels = images.shape[1:]
    # The four neighbours of a point are stored as channels, so that one gather finds all of them.
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    neighbours = tf.concat(
        [padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]], axis=-1
    )
    neighbours = tf.reshape(neighbours, [-1, (height + 1) * (width + 1), 4 * channels])
    rows, columns = tf.clip_by_value(rows, -1.0, float(height)), tf.clip_by_value(columns, -1.0, float(width))
    upper, left = tf.clip_by_value(tf.floor(rows), -1.0, height - 1.0), tf.floor(columns)
    left = tf.clip_by_value(left, -1.0, width - 1.0)
    flat = tf.cast((upper + 1.0) * (width + 1) + left + 1.0, tf.int32)
    found = tf.gather(neighbours, tf.reshape(flat, [-1, height * width]), axis=1, batch_dims=1)
    found = tf.reshape(found, [-1, height, width, 4 * channels])
    lower, right = (rows - upper)[..., None], (columns - left)[..., None]
    above, below = found[..., : 2 * channels], found[..., 2 * channels :]
    between = above + (below - above) * lower
    return between[..., :channels] + (between[..., channels:] - between[..., :channels]) * right
