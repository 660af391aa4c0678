"""Brightness of images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import cast_to_stored, white_level
from kdcli.lazy import tf
from kdcli.spec import Augment, PositiveFloat
from kdcli.tensors import Tensor


class Brightness(Augment):
    """Add the same random value to all pixels of an image, clipped to the range of integer types.

    Args:
        amount: largest change, as a fraction of white: up to ± amount · 255 for `uint8`, ± amount for floats.
    """

    draws: ClassVar[int] = 1
    moves: ClassVar[bool] = False

    kind: Literal["brightness"] = "brightness"
    amount: Annotated[PositiveFloat, Field(le=255)] = 0.2

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change images (batch, h, w, channels) of any type by draws (batch, 1)."""
        change = (2.0 * draws[:, 0] - 1.0) * self.amount * white_level(images.dtype)
        return cast_to_stored(tf.cast(images, tf.float32) + change[:, None, None, None], images.dtype)
