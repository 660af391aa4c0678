"""Random mirroring of images."""

from __future__ import annotations

from typing import ClassVar, Literal

from kdcli.lazy import tf
from kdcli.spec import Augment
from kdcli.tensors import Tensor


class Flip(Augment):
    """Mirror each image with probability 1/2.

    Args:
        axis: `horizontal` (left and right are swapped) or `vertical`.
    """

    draws: ClassVar[int] = 1

    kind: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical"] = "horizontal"

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Mirror images (batch, h, w, channels) of any type by draws (batch, 1)."""
        mirrored = tf.reverse(images, [2 if self.axis == "horizontal" else 1])
        return tf.where((draws[:, 0] < 0.5)[:, None, None, None], mirrored, images)
