"""Move the picture by whole pixels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.augment.pixels import crop_window
from kdcli.spec import Augment


class Shift(Augment):
    """Move each picture by up to `pixels` in both directions; what comes in is zero.

    Args:
        pixels: the largest move, in pixels of the data as stored.
    """

    draws: ClassVar[int] = 2

    kind: Literal["shift"] = "shift"
    pixels: Annotated[int, Field(ge=1, le=1024)] = 2

    def __call__(self, images: Any, draws: Any) -> Any:
        """Shift images (batch, h, w, channels) of any type by draws (batch, 2)."""
        return crop_window(images, draws, border=self.pixels)
