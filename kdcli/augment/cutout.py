"""Hide a square of the picture."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import mask_box
from kdcli.lazy import tf
from kdcli.spec import Augment


class Cutout(Augment):
    """Set a square of each picture to zero; its middle lies anywhere, what sticks out is cut off.

    DeVries & Taylor 2017, arXiv:1708.04552.

    Args:
        size: the square's side, in pixels of the data as stored.
    """

    draws: ClassVar[int] = 2

    kind: Literal["cutout"] = "cutout"
    size: Annotated[int, Field(ge=1, le=1024)] = 8

    def __call__(self, images: Any, draws: Any) -> Any:
        """Cut images (batch, h, w, channels) of any type by draws (batch, 2)."""
        size = images.shape[1], images.shape[2]
        hidden = mask_box(draws, size=size, sides=(self.size, self.size))
        return tf.where(hidden[..., None], tf.zeros_like(images), images)
