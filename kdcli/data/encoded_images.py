"""Encoded images behind an array interface: decoded with TensorFlow operations when rows are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from kdcli.data.store import StoredBytes
from kdcli.errors import DataError
from kdcli.lazy import tf

# What grey is made of, where colour pictures are asked for in grey.
GREY_WEIGHTS = (0.299, 0.587, 0.114)
WEBP_MAGIC, PNG_MAGIC = b"RIFF", b"\x89PNG"
DEEP_BITS = 16


@dataclass(frozen=True)
class ImageSpec:
    """What all pictures become: height, width, and channels (1 grey, 3 colour).

    `bits` is how many of a PNG of 16 bits are used: the upper 8 of these become the pixel.
    """

    height: int
    width: int
    channels: int
    bits: int = 16

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture."""
        return self.height, self.width, self.channels


def decode_images(contents: Any, form: ImageSpec) -> Any:
    """Pictures of one form in uint8, (n, height, width, channels), from encoded ones (n,).

    JPEG, PNG, GIF (its first picture), BMP and WebP; transparency is left out. Other sizes are stretched.

    Raises:
        tf.errors.InvalidArgumentError: a picture that is damaged, when the operations run.
    """
    spec = tf.TensorSpec(form.shape, tf.uint8)
    with tf.device("CPU:0"):
        return tf.map_fn(
            lambda content: _picture(content, form), contents, fn_output_signature=spec, parallel_iterations=32
        )


@cache
def compile_decoder(form: ImageSpec) -> Any:
    """`decoded` for a form as a function that is traced once."""
    signature = [tf.TensorSpec((None,), tf.string)]
    return tf.function(lambda contents: decode_images(contents, form), autograph=False, input_signature=signature)


def _picture(content: Any, form: ImageSpec) -> Any:
    def plain() -> Any:
        return tf.io.decode_image(content, channels=0, expand_animations=False)

    if form.bits < DEEP_BITS:
        plain = partial(tf.cond, _is_deep(content), lambda: _upper_bits(content, form.bits), plain)
    is_webp = tf.equal(tf.strings.substr(content, 0, len(WEBP_MAGIC)), WEBP_MAGIC)
    # An older TensorFlow knows no WebP; such a picture was refused by its header.
    picture = tf.cond(is_webp, lambda: _webp(content), plain) if hasattr(tf.io, "decode_webp") else plain()
    picture = _with_channels(tf.ensure_shape(picture, (None, None, None)), form.channels)
    size = tf.constant((form.height, form.width))
    fits = tf.reduce_all(tf.equal(tf.shape(picture)[:2], size))
    return tf.ensure_shape(tf.cond(fits, lambda: picture, lambda: _stretched(picture, size)), form.shape)


def _is_deep(content: Any) -> Any:
    """Whether it is a PNG of 16 bits."""
    is_png = tf.equal(tf.strings.substr(content, 0, len(PNG_MAGIC)), PNG_MAGIC)
    return tf.logical_and(is_png, tf.equal(tf.strings.substr(content, 24, 1), bytes([DEEP_BITS])))


def _upper_bits(content: Any, bits: int) -> Any:
    deep = tf.cast(tf.io.decode_png(content, channels=0, dtype=tf.uint16), tf.int32)
    return tf.cast(tf.minimum(tf.bitwise.right_shift(deep, bits - 8), 255), tf.uint8)


def _webp(content: Any) -> Any:
    """The first picture."""
    return tf.io.decode_webp(content, channels=0)[0]


def _with_channels(picture: Any, channels: int) -> Any:
    """The picture without transparency, as grey or as colour."""
    is_grey = tf.shape(picture)[-1] < 3
    if channels == 3:
        return tf.cond(is_grey, lambda: tf.repeat(picture[..., :1], 3, axis=-1), lambda: picture[..., :3])
    return tf.cond(is_grey, lambda: picture[..., :1], lambda: _grey(picture))


def _grey(picture: Any) -> Any:
    colours = tf.cast(picture[..., :3], tf.float32)
    red, green, blue = (colours[..., place, None] * share for place, share in enumerate(GREY_WEIGHTS))
    return tf.cast(tf.round(red + green + blue), tf.uint8)


def _stretched(picture: Any, size: Any) -> Any:
    resized = tf.image.resize(picture, size, antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


DAMAGED = "damaged or cut off"


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Stands for the array (n, height, width, channels) in uint8 that the pictures are when decoded.

    Args:
        stored: the encoded pictures.
        names: what messages call each, in UTF-8.
        form: what they become.
    """

    stored: StoredBytes
    names: StoredBytes
    form: ImageSpec

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the decoded array."""
        return (len(self), *self.form.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a pixel."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """How many axes the decoded array has."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, wanted: Any) -> np.ndarray:
        """Some pictures, decoded: positions, or a slice.

        Raises:
            DataError: one of them is damaged.
        """
        rows = np.arange(*wanted.indices(len(self))) if isinstance(wanted, slice) else np.asarray(wanted)
        try:
            return self._decoded(rows)
        # TensorFlow may quote bytes in a message that must be text.
        except (tf.errors.OpError, UnicodeDecodeError):
            damaged = self.damaged(rows)
            if not damaged:
                raise
            more = f", and {len(damaged) - 1} more of {len(rows)}" if len(damaged) > 1 else ""
            raise DataError(
                f"{self.name(damaged[0])}: this picture is {DAMAGED}{more}", hint="copy it again, or remove it"
            ) from None

    def read_encoded(self, rows: np.ndarray) -> np.ndarray:
        """Some pictures as they are stored, an array of `bytes`."""
        return np.array(self.stored.at(rows), object)

    def name(self, row: int) -> str:
        """What messages call a picture."""
        return self.names.at(np.array([row]))[0].decode("utf-8")

    def damaged(self, rows: np.ndarray) -> list[int]:
        """Those of some pictures that cannot be decoded."""
        found = []
        for row in rows.tolist():
            try:
                self._decoded(np.array([row]))
            except (tf.errors.OpError, UnicodeDecodeError):
                found.append(row)
        return found

    def part(self, rows: slice) -> EncodedImages:
        """Neighbouring pictures as an array of their own, in the same store."""
        return EncodedImages(self.stored.part(rows), self.names.part(rows), self.form)

    def pieces(self) -> Iterator[np.ndarray]:
        """Lengths and bytes of the encoded pictures, and how they are decoded, for a fingerprint."""
        yield from self.stored.pieces()
        if self.form.bits != DEEP_BITS:
            yield np.array([self.form.bits])

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        decode = compile_decoder(self.form)
        return np.asarray(decode(tf.constant(self.read_encoded(rows), tf.string)))
