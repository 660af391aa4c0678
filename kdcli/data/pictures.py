"""Encoded pictures, wherever they come from, as one array of equal pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.examples import ONLY, Examples
from kdcli.data.picture_header import Header, read_header
from kdcli.data.store import new_array
from kdcli.errors import DataError
from kdcli.lazy import tf

# What pictures of different sizes become.
SIZE = (256, 256)
# A file of a few bytes may claim to be larger than any memory.
LARGEST = 100_000_000
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Encoded:
    """A picture in a file or in bytes, with its label, its split and what messages call it."""

    name: str
    content: bytes | Path
    label: int
    split: str = "train"

    def read(self) -> bytes:
        """The bytes of the picture."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Form:
    """What all pictures become: height, width, and channels (1 grey, 3 colour)."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True)
class Pictures:
    """Pictures read: the splits that there are, and sentences about how they were read."""

    splits: dict[str, Examples]
    notes: tuple[str, ...]


class _Unreadable(Exception):
    """A picture that cannot be used, with the reason."""


def load_pictures(
    blocks: Callable[[], Iterable[Sequence[Encoded]]],
    *,
    name: str,
    size: str | tuple[int, int] = "auto",
    channels: str | int = "auto",
) -> Pictures:
    """Read pictures twice, headers first, so that one array of the right form is filled.

    Args:
        blocks: called for each pass; the pictures in blocks, those of one split in a row.
        name: what messages call the data.
        size: (height, width), or `auto`: the common size, else 256×256.
        channels: 1, 3, or `auto`: 1 when every picture is grey.

    Raises:
        DataError: pictures that cannot be read; all of them are counted.
    """
    labels: list[int] = []
    counts: Counter[str] = Counter()
    headers: Counter[Header] = Counter()
    for item, header in _each(blocks(), _header, name):
        labels.append(item.label)
        counts[item.split] += 1
        headers[header] += 1
    form, notes = _common(headers, size, channels, name)
    pictures = new_array((len(labels), form.height, form.width, form.channels), "uint8")
    done = 0
    for _, picture in _each(blocks(), lambda item: _decoded(item, form), name):
        if done == len(labels):
            break
        pictures[done] = picture
        done += 1
    if done != len(labels):
        raise DataError(f"{name}: the data changed while it was read")
    return Pictures(_by_split(pictures, np.asarray(labels, np.int64), counts), notes)


def _by_split(pictures: np.ndarray, labels: np.ndarray, counts: Counter[str]) -> dict[str, Examples]:
    splits, start = {}, 0
    # A counter keeps the order in which it met the splits, which is the order of the pictures.
    for split, count in counts.items():
        part = slice(start, start + count)
        splits[split] = Examples(split, {ONLY: pictures[part]}, labels[part], None, np.arange(count))
        start += count
    return splits


def _each(
    blocks: Iterable[Sequence[Encoded]], work: Callable[[Encoded], Any], name: str
) -> Iterator[tuple[Encoded, Any]]:
    """Every picture with what the work on it gives, in order; what fails is collected and told at the end."""
    failed: list[str] = []
    seen = 0

    def careful(item: Encoded) -> Any:
        try:
            return work(item)
        except _Unreadable as error:
            return error
        except OSError as error:
            return _Unreadable(error.strerror or str(error))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for block in blocks:
            for item, result in zip(block, pool.map(careful, block), strict=True):
                seen += 1
                if isinstance(result, _Unreadable):
                    failed.append(f"{item.name} ({result})")
                elif not failed:
                    yield item, result
    if failed:
        shown = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
        raise DataError(
            f"{name}: {len(failed)} of {seen} pictures cannot be read: {shown}", hint="repair or remove them"
        )


def _header(item: Encoded) -> Header:
    header = read_header(item.read())
    if header is None:
        raise _Unreadable("no JPEG, PNG, GIF, BMP or WebP picture")
    if header.height * header.width > LARGEST:
        raise _Unreadable(f"{header.height}×{header.width} pixels, more than {LARGEST}")
    return header


def _common(
    headers: Counter[Header], size: str | tuple[int, int], channels: str | int, name: str
) -> tuple[Form, tuple[str, ...]]:
    sizes = Counter[tuple[int, int]]()
    for header, count in headers.items():
        sizes[header.height, header.width] += count
    notes = []
    if isinstance(size, str):
        size = next(iter(sizes)) if len(sizes) == 1 else SIZE
        if len(sizes) > 1:
            frequent = ", ".join(f"{h}×{w}" for (h, w), _ in sizes.most_common(3))
            notes.append(
                f"{name}: pictures of {len(sizes)} sizes ({frequent}{', ...' if len(sizes) > 3 else ''}) are "
                f"stretched to {SIZE[0]}×{SIZE[1]}; `size: [h, w]` in data.source chooses"
            )
    grey = sum(count for header, count in headers.items() if header.channels == 1)
    if isinstance(channels, str):
        channels = 1 if grey == headers.total() else 3
        if channels == 3 and grey:
            notes.append(f"{name}: {grey} grey pictures among {headers.total()} become colour pictures")
    return Form(*size, channels), tuple(notes)


def _decoded(item: Encoded, form: Form) -> np.ndarray:
    content = item.read()
    try:
        with tf.device("CPU:0"):
            if content.startswith(b"RIFF"):
                picture = _decode_webp(content)
            else:
                picture = tf.io.decode_image(content, channels=0, expand_animations=False).numpy()
            picture = _with_channels(picture, form.channels)
            if picture.shape[:2] != (form.height, form.width):
                resized = tf.image.resize(picture, (form.height, form.width), antialias=True)
                picture = tf.saturate_cast(tf.round(resized), tf.uint8).numpy()
    # TensorFlow may quote bytes in a message that must be text.
    except (tf.errors.OpError, UnicodeDecodeError):
        raise _Unreadable("damaged or cut off") from None
    return picture


def _decode_webp(content: bytes) -> np.ndarray:
    if not hasattr(tf.io, "decode_webp"):
        raise _Unreadable("this TensorFlow reads no WebP; TensorFlow 2.21 does")
    picture = tf.io.decode_webp(content, channels=0).numpy()
    return picture[0] if picture.ndim == 4 else picture


def _with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """The picture without transparency, as grey or as colour."""
    picture = picture[..., :1] if picture.shape[-1] < 3 else picture[..., :3]
    if picture.shape[-1] == channels:
        return picture
    if channels == 3:
        return np.repeat(picture, 3, axis=-1)
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(grey).astype(np.uint8)[..., None]
