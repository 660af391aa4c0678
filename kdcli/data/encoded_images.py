"""Encoded images behind an array interface: decoded with TensorFlow operations when rows are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from kdcli.data.examples import RowArray
from kdcli.data.store import StoredBytes
from kdcli.errors import DataError
from kdcli.lazy import tf
from kdcli.tensors import Tensor

# Weights of red, green and blue when colour images become grey.
_GREY_WEIGHTS = (0.299, 0.587, 0.114)
WEBP_MAGIC, _PNG_MAGIC = b"RIFF", b"\x89PNG"
DEEP_BITS = 16
DAMAGED = "damaged or truncated"


@dataclass(frozen=True)
class ImageSpec:
    """The common form of all decoded images.

    Args:
        height, width: size in pixels.
        channels: 1 (grey) or 3 (colour).
        bits: bits used of a 16-bit PNG; the upper 8 of them become the pixel value.
    """

    height: int
    width: int
    channels: int
    bits: int = DEEP_BITS

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return self.height, self.width, self.channels


@dataclass(frozen=True, eq=False)
class EncodedImages(RowArray):
    """Encoded images with the interface of their decoded array, (n, height, width, channels) uint8.

    Args:
        stored: the encoded images.
        names: the name of each image in messages, in UTF-8.
        image_spec: the form of the decoded images.
    """

    stored: StoredBytes
    names: StoredBytes
    image_spec: ImageSpec

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded array."""
        return (len(self.stored), *self.image_spec.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixel values."""
        return np.dtype(np.uint8)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """Decode images by positions or by slice.

        Raises:
            DataError: an image is damaged.
        """
        rows = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        try:
            return self._decode(rows)
        # TensorFlow may quote bytes that are not valid UTF-8 in its message.
        except (tf.errors.OpError, UnicodeDecodeError):
            damaged = self.find_damaged(rows)
            if not damaged:
                raise
            more = f", and {len(damaged) - 1} more of {len(rows)}" if len(damaged) > 1 else ""
            message = f"{self.read_name(damaged[0])}: the image is {DAMAGED}{more}"
            raise DataError(message, hint="copy the file again, or remove it") from None

    def read_encoded(self, rows: np.ndarray) -> np.ndarray:
        """Read images as they are stored, as an array of `bytes`."""
        return np.array(self.stored.read(rows), object)

    def read_name(self, row: int) -> str:
        """Read the name of an image in messages."""
        return self.names.read(np.array([row]))[0].decode("utf-8")

    def find_damaged(self, rows: np.ndarray) -> list[int]:
        """Find the images that cannot be decoded among the given rows."""
        found = []
        for row in rows.tolist():
            try:
                self._decode(np.array([row]))
            except (tf.errors.OpError, UnicodeDecodeError):
                found.append(row)
        return found

    def select_range(self, rows: slice) -> EncodedImages:
        """Select consecutive images, in the same store."""
        return EncodedImages(self.stored.select_range(rows), self.names.select_range(rows), self.image_spec)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield lengths and bytes of the encoded images, and how they are decoded, for a fingerprint."""
        yield from self.stored.pieces()
        if self.image_spec.bits != DEEP_BITS:
            yield np.array([self.image_spec.bits])

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        decode = compile_decoder(self.image_spec)
        return np.asarray(decode(tf.constant(self.read_encoded(rows), tf.string)))


@cache
def compile_decoder(image_spec: ImageSpec) -> Callable[[Tensor], Tensor]:
    """Compile `decode_images` for one form; the function is traced once."""
    signature = [tf.TensorSpec((None,), tf.string)]
    return tf.function(
        lambda contents: decode_images(contents, image_spec), autograph=False, input_signature=signature
    )


def decode_images(contents: Tensor, image_spec: ImageSpec) -> Tensor:
    """Decode images (n,) of bytes to (n, height, width, channels) uint8.

    Reads JPEG, PNG, GIF (the first image), BMP and WebP. Transparency is dropped; images of another size are
    stretched.

    Raises:
        tf.errors.InvalidArgumentError: an image is damaged; raised when the operations run.
    """
    spec = tf.TensorSpec(image_spec.shape, tf.uint8)
    with tf.device("CPU:0"):
        return tf.map_fn(
            lambda content: _decode_image(content, image_spec),
            contents,
            fn_output_signature=spec,
            parallel_iterations=32,
        )


def _decode_image(content: Tensor, image_spec: ImageSpec) -> Tensor:
    def decode() -> Tensor:
        return tf.io.decode_image(content, channels=0, expand_animations=False)

    if image_spec.bits < DEEP_BITS:
        decode = partial(tf.cond, _is_deep(content), lambda: _decode_deep(content, image_spec.bits), decode)
    is_webp = tf.equal(tf.strings.substr(content, 0, len(WEBP_MAGIC)), WEBP_MAGIC)
    # Older TensorFlow versions cannot decode WebP; such images were refused by their header.
    image = tf.cond(is_webp, lambda: _decode_webp(content), decode) if hasattr(tf.io, "decode_webp") else decode()
    image = _convert_channels(tf.ensure_shape(image, (None, None, None)), image_spec.channels)
    size = tf.constant((image_spec.height, image_spec.width))
    fits = tf.reduce_all(tf.equal(tf.shape(image)[:2], size))
    return tf.ensure_shape(tf.cond(fits, lambda: image, lambda: _stretch(image, size)), image_spec.shape)


def _is_deep(content: Tensor) -> Tensor:
    """Check whether an image is a 16-bit PNG."""
    is_png = tf.equal(tf.strings.substr(content, 0, len(_PNG_MAGIC)), _PNG_MAGIC)
    return tf.logical_and(is_png, tf.equal(tf.strings.substr(content, 24, 1), bytes([DEEP_BITS])))


def _decode_deep(content: Tensor, bits: int) -> Tensor:
    deep = tf.cast(tf.io.decode_png(content, channels=0, dtype=tf.uint16), tf.int32)
    return tf.cast(tf.minimum(tf.bitwise.right_shift(deep, bits - 8), 255), tf.uint8)


def _decode_webp(content: Tensor) -> Tensor:
    # The result has a leading frame axis.
    return tf.io.decode_webp(content, channels=0)[0]


def _convert_channels(image: Tensor, channels: int) -> Tensor:
    """Drop transparency and convert to grey (1) or colour (3)."""
    is_grey = tf.shape(image)[-1] < 3
    if channels == 3:
        return tf.cond(is_grey, lambda: tf.repeat(image[..., :1], 3, axis=-1), lambda: image[..., :3])
    return tf.cond(is_grey, lambda: image[..., :1], lambda: _convert_to_grey(image))


def _convert_to_grey(image: Tensor) -> Tensor:
    colours = tf.cast(image[..., :3], tf.float32)
    red, green, blue = (colours[..., place, None] * weight for place, weight in enumerate(_GREY_WEIGHTS))
    return tf.cast(tf.round(red + green + blue), tf.uint8)


def _stretch(image: Tensor, size: Tensor) -> Tensor:
    resized = tf.image.resize(image, size, antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)
