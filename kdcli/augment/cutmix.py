"""CutMix: paste a rectangle of another image."""

from __future__ import annotations

from typing import ClassVar, Literal

from kdcli.augment.mixing import Mixing, sample_beta
from kdcli.augment.pixels import mask_box
from kdcli.lazy import tf
from kdcli.tensors import Tensor


class Cutmix(Mixing):
    """Replace a rectangle of each image with that of another image; labels mix by the exact areas.

    Yun et al. 2019, arXiv:1905.04899.

    Args:
        alpha: parameter of Beta(alpha, alpha), from which the remaining fraction of the image is drawn, before
            the rectangle is clipped at the border.
    """

    draws: ClassVar[int] = 4

    kind: Literal["cutmix"] = "cutmix"

    def fractions(self, draws: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Compute the fraction of each image that remains, (batch,)."""
        replaced = tf.cast(self._mask_replaced(draws, size), tf.float32)
        return 1.0 - tf.reduce_mean(replaced, axis=[1, 2])

    def mix(self, images: Tensor, partners: Tensor, draws: Tensor) -> Tensor:
        """Paste partners into images, both (batch, h, w, channels), by draws (batch, 4)."""
        replaced = self._mask_replaced(draws, (images.shape[1], images.shape[2]))
        return tf.where(replaced[..., None], partners, images)

    def _mask_replaced(self, draws: Tensor, size: tuple[int, int]) -> Tensor:
        side = tf.sqrt(1.0 - sample_beta(draws[:, 1], self.alpha))
        sides = tf.floor(side * size[0]), tf.floor(side * size[1])
        return mask_box(draws[:, 2:4], size=size, sides=sides)
