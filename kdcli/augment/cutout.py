"""Cutout: hide a square of each image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import mask_box
from kdcli.lazy import tf
from kdcli.spec import Augment
from kdcli.tensors import Tensor


class Cutout(Augment):
    """Set a square of each image to zero; its centre is anywhere in the image, and it is clipped at the border.

    DeVries & Taylor 2017, arXiv:1708.04552.

    Args:
        size: side of the square, in pixels of the stored data.
    """

    draws: ClassVar[int] = 2

    kind: Literal["cutout"] = "cutout"
    size: Annotated[int, Field(ge=1, le=1024)] = 8

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Hide a square of images (batch, h, w, channels) of any type by draws (batch, 2)."""
        size = images.shape[1], images.shape[2]
        hidden = mask_box(draws, size=size, sides=(self.size, self.size))
        return tf.where(hidden[..., None], tf.zeros_like(images), images)
