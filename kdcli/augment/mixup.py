"""Blend two pictures."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.augment.mixing import Mixing, sample_beta
from kdcli.augment.pixels import cast_to_stored
from kdcli.lazy import tf
from kdcli.spec import PositiveFloat


class Mixup(Mixing):
    """Each picture becomes the weighted mean of itself and another one, its label likewise.

    Zhang, Cissé, Dauphin & Lopez-Paz 2017, arXiv:1710.09412.

    Args:
        alpha: the picture's own share is drawn from Beta(alpha, alpha).
    """

    draws: ClassVar[int] = 2

    kind: Literal["mixup"] = "mixup"
    alpha: Annotated[PositiveFloat, Field(ge=0.01, le=100)] = 0.2

    def shares(self, draws: Any, *, size: tuple[int, int]) -> Any:
        """The share that each picture keeps, (batch,)."""
        return sample_beta(draws[:, 1], self.alpha)

    def mix(self, images: Any, partners: Any, draws: Any) -> Any:
        """Blend images and partners (batch, h, w, channels) by draws (batch, 2)."""
        share = self.shares(draws, size=(1, 1))[:, None, None, None]
        own, other = tf.cast(images, tf.float32), tf.cast(partners, tf.float32)
        return cast_to_stored(share * own + (1.0 - share) * other, images.dtype)
