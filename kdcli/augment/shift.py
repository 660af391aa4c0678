"""Random shifts of images by whole pixels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import crop_window
from kdcli.spec import Augment
from kdcli.tensors import Tensor


class Shift(Augment):
    """Shift each image by up to `pixels` in both directions; uncovered pixels become zero.

    Args:
        pixels: largest shift, in pixels of the stored data.
    """

    draws: ClassVar[int] = 2

    kind: Literal["shift"] = "shift"
    pixels: Annotated[int, Field(ge=1, le=1024)] = 2

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Shift images (batch, h, w, channels) of any type by draws (batch, 2)."""
        return crop_window(images, draws, border=self.pixels)
