"""Encoded pictures, wherever they come from, as equal pictures by number."""

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
from kdcli.data.image_formats import ImageHeader, UnsupportedImageError, convert_bmp_to_png, read_image_header
from kdcli.data.store import BytesWriter
from kdcli.errors import DataError
from kdcli.lazy import tf
from kdcli.recipe.document import format_set_option
from kdcli.screening.pointer import POINTER_HINT, POINTER_MESSAGE

# What pictures of different sizes become.
_DEFAULT_SIZE, _EXAMPLE_SIZE = (256, 256), (128, 128)
# A file of a few bytes may claim to be larger than any memory.
MAX_PIXELS = 100_000_000
IMAGES_PER_BLOCK = 512
# Images of 16 bits whose largest value is looked for.
_SAMPLED_DEEP_IMAGES = 64
# Of the flags of a WebP file: it is an animation, it has transparency.
_MOVES, _TRANSPARENT = 0x02, 0x10


@dataclass(frozen=True)
class EncodedImage:
    """A picture in a file or in bytes, with its label, its split and what messages call it."""

    name: str
    content: bytes | Path
    label: int
    split: str = "train"

    def read(self) -> bytes:
        """The bytes of the picture."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class LoadedImages:
    """Pictures read: the splits that there are, and sentences about how they were read."""

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
    """Read pictures once; decoded now where that fits in memory, else whenever they are asked for.

    Args:
        blocks: the pictures in blocks, those of one split in a row.
        name: what messages call the data.
        size: (height, width), or `auto`: the common size, else 256×256.
        channels: 1, 3, or `auto`: 1 when every picture is grey.
        bits: how many of a PNG of 16 bits are used.
        resident_bytes: decoded pictures up to this size are kept as an array.

    Raises:
        DataError: pictures that cannot be read; all of them are counted.
        StorageError: no room for those that stay encoded.
    """
    labels = array.array("q")
    counts: Counter[str] = Counter()
    headers: Counter[ImageHeader] = Counter()
    deep: list[int] = []
    with BytesWriter() as contents, BytesWriter() as names:
        for item, (header, content) in _each(blocks, name):
            if header.depth == DEEP_BITS and len(deep) < _SAMPLED_DEEP_IMAGES:
                deep.append(len(labels))
            labels.append(item.label)
            counts[item.split] += 1
            headers[header] += 1
            contents.append(content)
            names.append(item.name.encode("utf-8"))
        form, notes = _common(headers, size, channels, name)
        form = replace(form, bits=bits)
        encoded = EncodedImages(contents.finish(), names.finish(), form)
    pictures = _decoded(encoded, name) if encoded.nbytes <= resident_bytes else encoded
    notes = (*notes, *_said_of(headers, encoded.read_encoded(np.array(deep, np.int64)), bits, name))
    return LoadedImages(_by_split(pictures, np.array(labels, np.int64), counts), notes)


def _by_split(
    pictures: np.ndarray | EncodedImages, labels: np.ndarray, counts: Counter[str]
) -> dict[str, Examples]:
    splits, start = {}, 0
    # A counter keeps the order in which it met the splits, which is the order of the pictures.
    for split, count in counts.items():
        part = slice(start, start + count)
        inputs = pictures.part(part) if isinstance(pictures, EncodedImages) else pictures[part]
        splits[split] = Examples(split, {SINGLE_INPUT: inputs}, labels[part], None, np.arange(count))
        start += count
    return splits


def _decoded(encoded: EncodedImages, name: str) -> np.ndarray:
    """All pictures as one array.

    Raises:
        DataError: some are damaged; all of them are counted.
    """
    pictures = np.empty(encoded.shape, encoded.dtype)
    damaged: list[int] = []
    for start in range(0, len(encoded), IMAGES_PER_BLOCK):
        rows = slice(start, min(start + IMAGES_PER_BLOCK, len(encoded)))
        try:
            pictures[rows] = encoded[rows]
        except DataError:
            damaged.extend(encoded.damaged(np.arange(rows.start, rows.stop)))
    if damaged:
        raise _unreadable([f"{encoded.name(row)} ({DAMAGED})" for row in damaged], name, len(encoded))
    return pictures


def _each(
    blocks: Iterable[Sequence[EncodedImage]], name: str
) -> Iterator[tuple[EncodedImage, tuple[ImageHeader, bytes]]]:
    """Every picture with its header and its bytes, in order; what fails is collected and told at the end."""
    failed: list[str] = []
    seen = 0

    def careful(item: EncodedImage) -> tuple[ImageHeader, bytes] | UnsupportedImageError:
        try:
            content = item.read()
            header = _header(content)
            return header, _as_decoded(content, header)
        except UnsupportedImageError as error:
            return error
        except OSError as error:
            return UnsupportedImageError(error.strerror or str(error))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for block in blocks:
            for item, result in zip(block, pool.map(careful, block), strict=True):
                seen += 1
                if isinstance(result, UnsupportedImageError):
                    failed.append(f"{item.name} ({result})")
                elif not failed:
                    yield item, result
    if failed:
        raise _unreadable(failed, name, seen)


def _unreadable(failed: list[str], name: str, seen: int) -> DataError:
    shown = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
    hint = POINTER_HINT if POINTER_MESSAGE in shown else "copy them again, convert them to .png, or remove them"
    return DataError(f"{name}: {len(failed)} of {seen} pictures cannot be read: {shown}", hint=hint)


def _header(content: bytes) -> ImageHeader:
    header = read_image_header(content)
    if header is None:
        raise UnsupportedImageError("no JPEG, PNG, GIF, BMP or WebP picture")
    if header.height * header.width > MAX_PIXELS:
        raise UnsupportedImageError(f"{header.height}×{header.width} pixels, more than {MAX_PIXELS}")
    if content.startswith(WEBP_MAGIC) and not hasattr(tf.io, "decode_webp"):
        raise UnsupportedImageError("this TensorFlow reads no WebP; TensorFlow 2.21 does")
    return header


def _as_decoded(content: bytes, header: ImageHeader) -> bytes:
    """The image in the form in which TensorFlow decodes it as it is meant."""
    if header.palette:
        return convert_bmp_to_png(content)
    if content[12:16] == b"VP8X" and content[20:21] and content[20] & _MOVES:
        # TensorFlow decodes an animation with transparency always, and writes past its memory where none is said.
        return content[:20] + bytes([content[20] | _TRANSPARENT]) + content[21:]
    return content


def _said_of(headers: Counter[ImageHeader], deep: np.ndarray, bits: int, name: str) -> Iterator[str]:
    """Sentences about rotations and depth; `deep` are some images of 16 bits."""
    rotated = sum(count for header, count in headers.items() if header.rotated)
    if rotated:
        yield (
            f"{name}: {rotated} of {headers.total()} images have a rotation in EXIF, which is not applied, as "
            "Keras does not; PIL.ImageOps.exif_transpose rotates them"
        )
    count = sum(count for header, count in headers.items() if header.depth == DEEP_BITS)
    if not count:
        return
    largest = max(map(_largest, deep))
    used = max(largest.bit_length(), 8)
    said = f"{name}: of {count} images with 16 bits a channel"
    among = f"the largest value in {len(deep)} of them is {largest}"
    if used < min(bits, DEEP_BITS - 1):
        yield (
            f"{said} the upper 8 of {bits} bits are used, but {among}, so they become dark; "
            f"{format_set_option('data.source.bits', used)} uses the upper 8 of {used} bits"
        )
    elif used > bits:
        yield f"{said} values of more than {bits} bits become 255; {among}"
    else:
        yield f"{said} the upper 8 of {bits} bits are used"


def _largest(content: bytes) -> int:
    """The largest value of a PNG of 16 bits; 0 where it is damaged, which is told when it is needed."""
    try:
        return int(np.asarray(tf.io.decode_png(content, dtype=tf.uint16)).max())
    except (tf.errors.OpError, UnicodeDecodeError):
        return 0


def _common(
    headers: Counter[ImageHeader], size: str | tuple[int, int], channels: str | int, name: str
) -> tuple[ImageSpec, tuple[str, ...]]:
    sizes = Counter[tuple[int, int]]()
    for header, count in headers.items():
        sizes[header.height, header.width] += count
    notes = []
    if isinstance(size, str):
        size = next(iter(sizes)) if len(sizes) == 1 else _DEFAULT_SIZE
        if len(sizes) > 1:
            frequent = ", ".join(f"{h}×{w}" for (h, w), _ in sizes.most_common(3))
            notes.append(
                f"{name}: pictures of {len(sizes)} sizes ({frequent}{', ...' if len(sizes) > 3 else ''}) are "
                f"stretched to {_DEFAULT_SIZE[0]}×{_DEFAULT_SIZE[1]}; "
                f"{format_set_option('data.source.size', _EXAMPLE_SIZE)} chooses another size"
            )
    grey = sum(count for header, count in headers.items() if header.channels == 1)
    if isinstance(channels, str):
        channels = 1 if grey == headers.total() else 3
        if channels == 3 and grey:
            notes.append(f"{name}: {grey} grey pictures among {headers.total()} become colour pictures")
    return ImageSpec(*size, channels), tuple(notes)
