"""Paste a rectangle of another picture."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.augment.mixing import Mixing, sample_beta
from kdcli.augment.pixels import mask_box
from kdcli.lazy import tf


class Cutmix(Mixing):
    """A rectangle of each picture is replaced by that of another one; labels mix by the exact areas.

    Yun et al. 2019, arXiv:1905.04899.

    Args:
        alpha: the area that a picture keeps is drawn from Beta(alpha, alpha), before the rectangle is cut off
            at the border.
    """

    draws: ClassVar[int] = 4

    kind: Literal["cutmix"] = "cutmix"

    def shares(self, draws: Any, *, size: tuple[int, int]) -> Any:
        """The area that each picture keeps, as a share, (batch,)."""
        replaced = tf.cast(self._replaced(draws, size), tf.float32)
        return 1.0 - tf.reduce_mean(replaced, axis=[1, 2])

    def mix(self, images: Any, partners: Any, draws: Any) -> Any:
        """Paste partners into images, both (batch, h, w, channels), by draws (batch, 4)."""
        replaced = self._replaced(draws, (images.shape[1], images.shape[2]))
        return tf.where(replaced[..., None], partners, images)

    def _replaced(self, draws: Any, size: tuple[int, int]) -> Any:
        side = tf.sqrt(1.0 - sample_beta(draws[:, 1], self.alpha))
        sides = tf.floor(side * size[0]), tf.floor(side * size[1])
        return mask_box(draws[:, 2:4], size=size, sides=sides)
