"""MixUp: blend two images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdcli.augment.mixing import Mixing, sample_beta
from kdcli.augment.pixels import cast_to_stored
from kdcli.lazy import tf
from kdcli.spec import PositiveFloat
from kdcli.tensors import Tensor


class Mixup(Mixing):
    """Replace each image by the weighted mean of itself and another image; labels likewise.

    Zhang, Cissé, Dauphin & Lopez-Paz 2017, arXiv:1710.09412.

    Args:
        alpha: parameter of Beta(alpha, alpha), from which the weight of the image itself is drawn.
    """

    draws: ClassVar[int] = 2

    kind: Literal["mixup"] = "mixup"
    alpha: Annotated[PositiveFloat, Field(ge=0.01, le=100)] = 0.2

    def fractions(self, draws: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Draw the weight of each image itself, (batch,)."""
        return sample_beta(draws[:, 1], self.alpha)

    def mix(self, images: Tensor, partners: Tensor, draws: Tensor) -> Tensor:
        """Blend images and partners (batch, h, w, channels) by draws (batch, 2)."""
        weight = self.fractions(draws, size=(1, 1))[:, None, None, None]
        first, second = tf.cast(images, tf.float32), tf.cast(partners, tf.float32)
        return cast_to_stored(weight * first + (1.0 - weight) * second, images.dtype)
