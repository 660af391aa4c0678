"""Random crops of padded images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import crop_window
from kdcli.spec import Augment
from kdcli.tensors import Tensor


class Crop(Augment):
    """Pad each image with zeros and crop it to its original size at a random position.

    The usual augmentation of 32×32 images (He et al. 2015, arXiv:1512.03385, section 4.2: padding 4).

    Args:
        padding: width of the border of zeros, in pixels of the stored data.
    """

    draws: ClassVar[int] = 2

    kind: Literal["crop"] = "crop"
    padding: Annotated[int, Field(ge=1, le=1024)] = 4

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop images (batch, h, w, channels) of any type by draws (batch, 2)."""
        return crop_window(images, draws, border=self.padding)
