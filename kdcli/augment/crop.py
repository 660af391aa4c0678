"""Cut a window of the original size from the padded picture."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import crop_window
from kdcli.spec import Augment


class Crop(Augment):
    """Pad each picture with zeros and cut a window of its own size at a random place.

    The usual augmentation of 32×32 pictures (He et al. 2015, arXiv:1512.03385, section 4.2: padding 4).

    Args:
        padding: width of the border of zeros, in pixels of the data as stored.
    """

    draws: ClassVar[int] = 2

    kind: Literal["crop"] = "crop"
    padding: Annotated[int, Field(ge=1, le=1024)] = 4

    def __call__(self, images: Any, draws: Any) -> Any:
        """Crop images (batch, h, w, channels) of any type by draws (batch, 2)."""
        return crop_window(images, draws, border=self.padding)
