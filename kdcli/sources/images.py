"""Folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcli.sources.setting_types import Bits, Channels, ImageSize
from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class Images(Source):
    """A folder of images: `DIR/train/CLASS/*` and `DIR/test/CLASS/*`, or `DIR/CLASS/*`.

    Split folders may have any of their common names, in any case: `Training`, `test_set`, `seg_train`, `valid`,
    `dev` ... A single folder around all others is entered. JPEG, PNG, BMP, GIF and WebP files are read (of an
    animation the first image); transparency is dropped and an EXIF rotation is not applied. Classes are in string
    order, as in Keras.

    Images of more than 256 MB when decoded stay encoded, in an unnamed copy in the temporary folder (`TMPDIR`),
    and are decoded each time they are needed.

    Args:
        path: the folder, relative to the current folder.
        size: [height, width] that images are stretched to; `auto` keeps their size if all are equal, else uses
            256×256. A network then resizes images to its own input size.
        channels: 1 (grey), 3 (colour); `auto` is 1 if all images are grey.
        bits: bits used of a 16-bit PNG; the upper 8 of them become the pixel value.
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
        """Read the splits in the folder, with images in uint8."""
        from kdcli.data.image_folders import read_image_folders

        return read_image_folders(Path(self.path), size=self.size, channels=self.channels, bits=self.bits)
