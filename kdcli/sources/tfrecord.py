"""TFRecord files of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdcli.sources.setting_types import Bits, Channels, ImageSize
from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class TfRecord(Source):
    """TFRecord files of `tf.Example`s, each an encoded picture and its label.

    `train*`, `validation*` (`valid*`, `val*`, `dev*`, `eval*`) and `test*` are the splits, by the names of the
    files. A `labels.txt` beside them names the classes, one a line, as `0:name` or as `0 name`.

    Pictures of more than 256 MB when decoded stay encoded, in a copy without a name in the temporary folder
    (`TMPDIR`), and are decoded whenever they are needed.

    Args:
        path: a file, a pattern such as `DIR/train-*.tfrecord`, or a folder of such files.
        image_key: the feature that holds the picture as JPEG, PNG, BMP, GIF or WebP.
        label_key: the feature that holds the class, a whole number from 0.
        size: [height, width] that pictures are stretched to; `auto` is their own when all are equal, else
            256×256.
        channels: 1 (grey), 3 (colour); `auto` is 1 when every picture is grey.
        bits: how many of a PNG of 16 bits are used; the upper 8 of them become the pixel.
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
        """The files that the path stands for, and the folder that was named."""
        from kdcli.data.tfrecords import find_record_files

        return (self.path, *map(str, find_record_files(self.path)))

    def load(self) -> Splits:
        """The splits that the files hold, pictures in uint8."""
        from kdcli.data.tfrecords import read_tfrecords

        return read_tfrecords(
            self.path,
            image_key=self.image_key,
            label_key=self.label_key,
            size=self.size,
            channels=self.channels,
            bits=self.bits,
        )
