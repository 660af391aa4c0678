"""TFRecord files of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdcli.sources.setting_types import Bits, Channels, ImageSize
from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class TfRecord(Source):
    """TFRecord files of `tf.Example` records, each with an encoded image and its label.

    File names define the splits: `train*`, `validation*` (`valid*`, `val*`, `dev*`, `eval*`) and `test*`. A
    `labels.txt` in the same folder names the classes, one per line, as `name`, `0:name` or `0 name`.

    Images of more than 256 MB when decoded stay encoded, in an unnamed copy in the temporary folder (`TMPDIR`),
    and are decoded each time they are needed.

    Args:
        path: a file, a pattern such as `DIR/train-*.tfrecord`, or a folder of such files.
        image_key: name of the feature with the image, as JPEG, PNG, BMP, GIF or WebP.
        label_key: name of the feature with the class, an integer from 0.
        size: [height, width] that images are stretched to; `auto` keeps their size if all are equal, else uses
            256×256.
        channels: 1 (grey), 3 (colour); `auto` is 1 if all images are grey.
        bits: bits used of a 16-bit PNG; the upper 8 of them become the pixel value.
    """

    kind: Literal["tfrecord"] = "tfrecord"
    path: str
    image_key: str = "image/encoded"
    label_key: str = "image/class/label"
    size: ImageSize = "auto"
    channels: Channels = "auto"
    bits: Bits = 16

    @property
    def paths(self) -> tuple[str, ...]:
        """The given path and the files that it stands for."""
        from kdcli.data.tfrecords import find_record_files

        return (self.path, *map(str, find_record_files(self.path)))

    def load(self) -> Splits:
        """Read the splits in the files, with images in uint8."""
        from kdcli.data.tfrecords import read_tfrecords

        return read_tfrecords(
            self.path,
            image_key=self.image_key,
            label_key=self.label_key,
            size=self.size,
            channels=self.channels,
            bits=self.bits,
        )
