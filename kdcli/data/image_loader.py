"""Load encoded images from any source as splits of equally shaped images."""

from __future__ import annotations

import array
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdcli.data.encoded_images import DAMAGED, DEEP_BITS, WEBP_MAGIC, EncodedImages, ImageSpec
from kdcli.data.examples import SINGLE_INPUT, Examples
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.image_formats import (
    ImageHeader,
    UnsupportedImageError,
    convert_bmp_to_png,
    read_image_header,
)
from kdcli.data.named_arrays import list_first
from kdcli.data.store import BytesWriter
from kdcli.errors import DataError
from kdcli.lazy import tf
from kdcli.recipe.document import format_set_option
from kdcli.screening.pointer import POINTER_HINT, POINTER_MESSAGE

IMAGES_PER_BLOCK = 512
# Size (height, width) of images that have different sizes, and another size for the hint.
_DEFAULT_SIZE, _EXAMPLE_SIZE = (256, 256), (128, 128)
# A file of a few bytes can claim to be larger than memory.
_MAX_PIXELS = 100_000_000
# Number of 16-bit images that are searched for the largest value.
_SAMPLED_DEEP_IMAGES = 64
# Bits in the flags of a WebP file: animation, transparency.
_WEBP_ANIMATION, _WEBP_ALPHA = 0x02, 0x10


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """An image in a file or in bytes.

    Args:
        name: name in messages.
        content: the file, or its bytes.
        label: class number.
        split: `train`, `validation` or `test`.
    """

    name: str
    content: bytes | Path
    label: int
    split: str = "train"

    def read(self) -> bytes:
        """Read the encoded image."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class LoadedImages:
    """Loaded images.

    Args:
        splits: the splits that occur.
        notes: sentences for the user about how the images were read.
    """

    splits: dict[str, Examples]
    notes: tuple[str, ...]


def load_images(
    blocks: Iterable[Sequence[EncodedImage]],
    *,
    name: str,
    size: str | tuple[int, int] = "auto",
    channels: str | int = "auto",
    bits: int = DEEP_BITS,
    resident_bytes: int = RESIDENT_BYTES,
) -> LoadedImages:
    """Read images once; decode them now if they fit in memory, else each time they are needed.

    Args:
        blocks: the images in blocks, those of one split consecutively.
        name: name of the data in messages.
        size: (height, width), or `auto`: the common size, else 256×256.
        channels: 1, 3, or `auto`: 1 if all images are grey.
        bits: bits used of a 16-bit PNG.
        resident_bytes: decoded images up to this size are stored as an array.

    Raises:
        DataError: some images cannot be read; the message counts all of them.
        StorageError: not enough disk space for the encoded images.
    """
    labels = array.array("q")
    counts: Counter[str] = Counter()
    headers: Counter[ImageHeader] = Counter()
    deep: list[int] = []
    with BytesWriter() as contents, BytesWriter() as names:
        for image, (header, content) in _read_each(blocks, name):
            if header.depth == DEEP_BITS and len(deep) < _SAMPLED_DEEP_IMAGES:
                deep.append(len(labels))
            labels.append(image.label)
            counts[image.split] += 1
            headers[header] += 1
            contents.append(content)
            names.append(image.name.encode("utf-8"))
        image_spec, notes = _choose_spec(headers, size=size, channels=channels, name=name)
        image_spec = replace(image_spec, bits=bits)
        encoded = EncodedImages(contents.finish(), names.finish(), image_spec)
    images = _decode_all(encoded, name) if encoded.nbytes <= resident_bytes else encoded
    sampled = encoded.read_encoded(np.array(deep, np.int64))
    notes = (*notes, *_describe_headers(headers, sampled, bits=bits, name=name))
    return LoadedImages(_group_by_split(images, np.array(labels, np.int64), counts), notes)


def _group_by_split(
    images: np.ndarray | EncodedImages, labels: np.ndarray, counts: Counter[str]
) -> dict[str, Examples]:
    splits, start = {}, 0
    # A counter is ordered by first occurrence, which is the order of the images.
    for split, count in counts.items():
        part = slice(start, start + count)
        inputs = images.select_range(part) if isinstance(images, EncodedImages) else images[part]
        splits[split] = Examples(split, {SINGLE_INPUT: inputs}, labels[part], None, np.arange(count))
        start += count
    return splits


def _decode_all(encoded: EncodedImages, name: str) -> np.ndarray:
    """Decode all images to one array.

    Raises:
        DataError: some images are damaged; the message counts all of them.
    """
    images = np.empty(encoded.shape, encoded.dtype)
    damaged: list[int] = []
    for start in range(0, len(encoded), IMAGES_PER_BLOCK):
        rows = slice(start, min(start + IMAGES_PER_BLOCK, len(encoded)))
        try:
            images[rows] = encoded[rows]
        except DataError:
            damaged.extend(encoded.find_damaged(np.arange(rows.start, rows.stop)))
    if damaged:
        raise _unreadable([f"{encoded.read_name(row)} ({DAMAGED})" for row in damaged], name, total=len(encoded))
    return images


def _read_each(
    blocks: Iterable[Sequence[EncodedImage]], name: str
) -> Iterator[tuple[EncodedImage, tuple[ImageHeader, bytes]]]:
    """Yield each image with its header and bytes, in order; raise one error for all failures at the end."""
    failed: list[str] = []
    total = 0

    def read(image: EncodedImage) -> tuple[ImageHeader, bytes] | UnsupportedImageError:
        try:
            content = image.read()
            header = _check_header(content)
            return header, _repair(content, header)
        except UnsupportedImageError as error:
            return error
        except OSError as error:
            return UnsupportedImageError(error.strerror or str(error))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for block in blocks:
            for image, result in zip(block, pool.map(read, block), strict=True):
                total += 1
                if isinstance(result, UnsupportedImageError):
                    failed.append(f"{image.name} ({result})")
                elif not failed:
                    yield image, result
    if failed:
        raise _unreadable(failed, name, total=total)


def _unreadable(failed: list[str], name: str, *, total: int) -> DataError:
    listed = list_first(failed)
    hint = POINTER_HINT if POINTER_MESSAGE in listed else "copy them again, convert them to .png, or remove them"
    return DataError(f"{name}: {len(failed)} of {total} images cannot be read: {listed}", hint=hint)


def _check_header(content: bytes) -> ImageHeader:
    header = read_image_header(content)
    if header is None:
        raise UnsupportedImageError("not a JPEG, PNG, GIF, BMP or WebP image")
    if header.height * header.width > _MAX_PIXELS:
        raise UnsupportedImageError(f"{header.height}×{header.width} pixels, more than {_MAX_PIXELS:,}")
    if content.startswith(WEBP_MAGIC) and not hasattr(tf.io, "decode_webp"):
        raise UnsupportedImageError("this TensorFlow cannot read WebP; TensorFlow 2.21 can")
    return header


def _repair(content: bytes, header: ImageHeader) -> bytes:
    """Rewrite images that TensorFlow would decode wrongly."""
    if header.palette:
        return convert_bmp_to_png(content)
    if content[12:16] == b"VP8X" and content[20:21] and content[20] & _WEBP_ANIMATION:
        # TensorFlow always decodes animations with transparency, and writes out of bounds if the flag is missing.
        return content[:20] + bytes([content[20] | _WEBP_ALPHA]) + content[21:]
    return content


def _describe_headers(headers: Counter[ImageHeader], deep: np.ndarray, *, bits: int, name: str) -> Iterator[str]:
    """Yield notes about rotation and depth; `deep` holds some encoded 16-bit images."""
    rotated = sum(count for header, count in headers.items() if header.rotated)
    if rotated:
        yield (
            f"{name}: {rotated} of {headers.total()} images have an EXIF rotation, which is not applied (Keras "
            "does not apply it either); PIL.ImageOps.exif_transpose rotates them"
        )
    count = sum(count for header, count in headers.items() if header.depth == DEEP_BITS)
    if not count:
        return
    largest = max(map(_find_largest, deep))
    used = max(largest.bit_length(), 8)
    subject = f"{name}: 16 bits per channel in {count} of {headers.total()} images"
    sample = f"the largest value in {len(deep)} of them is {largest}"
    if used < min(bits, DEEP_BITS - 1):
        yield (
            f"{subject}; the upper 8 of {bits} bits are used, but {sample}, so they become dark; "
            f"{format_set_option('data.source.bits', used)} uses the upper 8 of {used} bits"
        )
    elif used > bits:
        yield f"{subject}; values of more than {bits} bits become 255 ({sample})"
    else:
        yield f"{subject}; the upper 8 of {bits} bits are used"


def _find_largest(content: bytes) -> int:
    """Find the largest value of a 16-bit PNG; 0 if it is damaged, which is reported when it is decoded."""
    try:
        return int(np.asarray(tf.io.decode_png(content, dtype=tf.uint16)).max())
    except (tf.errors.OpError, UnicodeDecodeError):
        return 0


def _choose_spec(
    headers: Counter[ImageHeader], *, size: str | tuple[int, int], channels: str | int, name: str
) -> tuple[ImageSpec, tuple[str, ...]]:
    """Choose the common form of all images, with notes about images that are converted to it."""
    sizes = Counter[tuple[int, int]]()
    for header, count in headers.items():
        sizes[header.height, header.width] += count
    notes = []
    if isinstance(size, str):
        size = next(iter(sizes)) if len(sizes) == 1 else _DEFAULT_SIZE
        if len(sizes) > 1:
            frequent = ", ".join(f"{height}×{width}" for (height, width), _ in sizes.most_common(3))
            notes.append(
                f"{name}: images of {len(sizes)} sizes ({frequent}{', ...' if len(sizes) > 3 else ''}) are "
                f"stretched to {size[0]}×{size[1]}; "
                f"{format_set_option('data.source.size', _EXAMPLE_SIZE)} sets another size"
            )
    grey = sum(count for header, count in headers.items() if header.channels == 1)
    if isinstance(channels, str):
        channels = 1 if grey == headers.total() else 3
        if channels == 3 and grey:
            notes.append(f"{name}: {grey} of {headers.total()} images are grey and are converted to colour")
    return ImageSpec(*size, channels), tuple(notes)
