"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcli.sources.setting_types import Bits, Channels, ImageSize
from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class Images(Source):
    """A folder of pictures: `DIR/train/CLASS/*` and `DIR/test/CLASS/*`, or `DIR/CLASS/*`.

    Splits go by the names that people use, in any case: `Training`, `test_set`, `seg_train`, `valid`, `dev` ...
    One folder around all is looked into. JPEG, PNG, BMP, GIF and WebP (of an animation its first image);
    transparency is left out and a rotation in EXIF is not applied. Classes are in string order, as Keras has them.

    Pictures of more than 256 MB when decoded stay encoded, in a copy without a name in the temporary folder
    (`TMPDIR`), and are decoded whenever they are needed.

    Args:
        path: the folder, relative to the current one.
        size: [height, width] that pictures are stretched to; `auto` is their own when all are equal, else
            256×256. A network resizes to its own size afterwards.
        channels: 1 (grey), 3 (colour); `auto` is 1 when every picture is grey.
        bits: how many of a PNG of 16 bits are used; the upper 8 of them become the pixel.
    """

    kind: Literal["images"] = "images"
    path: str
    size: ImageSize = "auto"
    channels: Channels = "auto"
    bits: Bits = 16

    @property
    def paths(self) -> tuple[str, ...]:
        """The folder."""
        return (self.path,)

    def load(self) -> Splits:
        """The splits that the folder holds, pictures in uint8."""
        from kdcli.data.image_folders import read_image_folders

        return read_image_folders(Path(self.path), size=self.size, channels=self.channels, bits=self.bits)
