"""Mirror the picture."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.lazy import tf
from kdcli.spec import Augment


class Flip(Augment):
    """Mirror every second picture, chosen by its draw.

    Args:
        axis: `horizontal` (left and right change places) or `vertical`.
    """

    draws: ClassVar[int] = 1

    kind: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical"] = "horizontal"

    def __call__(self, images: Any, draws: Any) -> Any:
        """Mirror images (batch, h, w, channels) of any type by draws (batch, 1)."""
        mirrored = tf.reverse(images, [2 if self.axis == "horizontal" else 1])
        return tf.where((draws[:, 0] < 0.5)[:, None, None, None], mirrored, images)
