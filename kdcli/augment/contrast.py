"""Contrast of images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import cast_to_stored
from kdcli.lazy import tf
from kdcli.spec import Augment, PositiveFloat
from kdcli.tensors import Tensor


class Contrast(Augment):
    """Scale the values of each image around their mean, clipped to the range of integer types.

    Args:
        amount: largest change of the factor, which is between 1 - amount and 1 + amount.
    """

    draws: ClassVar[int] = 1
    moves: ClassVar[bool] = False

    kind: Literal["contrast"] = "contrast"
    amount: Annotated[PositiveFloat, Field(le=1)] = 0.2

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change images (batch, h, w, channels) of any type by draws (batch, 1)."""
        factor = 1.0 + (2.0 * draws[:, 0] - 1.0) * self.amount
        values = tf.cast(images, tf.float32)
        mean = tf.reduce_mean(values, axis=[1, 2, 3], keepdims=True)
        return cast_to_stored(mean + (values - mean) * factor[:, None, None, None], images.dtype)
