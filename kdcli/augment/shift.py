"""Move the picture by whole pixels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.lazy import tf
from kdcli.spec import Augment


class Shift(Augment):
    """Move each picture by up to `pixels` in both directions; what comes in is zero.

    Args:
        pixels: the largest move, in pixels of the data as stored.
    """

    draws: ClassVar[int] = 2

    kind: Literal["shift"] = "shift"
    pixels: Annotated[int, Field(ge=1, le=1024)] = 2

    def __call__(self, images: Any, draws: Any) -> Any:
        """Shift images (batch, h, w, channels) of any type by draws (batch, 2)."""
        height, width = images.shape[1], images.shape[2]
        moves = tf.cast(tf.floor(draws * (2 * self.pixels + 1)), tf.int32)
        edge = [self.pixels, self.pixels]
        padded = tf.pad(images, [[0, 0], edge, edge, [0, 0]])
        rows = moves[:, :1] + tf.range(height)[None, :]
        columns = moves[:, 1:2] + tf.range(width)[None, :]
        moved = tf.gather(padded, rows, axis=1, batch_dims=1)
        return tf.gather(moved, columns, axis=2, batch_dims=1)
