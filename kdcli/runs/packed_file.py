"""One file for a JSON document and named arrays, read as a whole, by its header, or memory-mapped.

A file consists of the magic bytes, the length of the header, the header (JSON, padded with spaces so that the
arrays begin at a multiple of 64), the raw arrays (larger item sizes first, so that each is aligned) and a sha256
of everything before it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdcli.errors import StorageError
from kdcli.runs.mapped_arrays import drop_pages

_MAGIC = b"KDCKPT1\n"
# Bytes of the magic and the length of the header; bytes of the sha256.
_START_BYTES, _DIGEST_BYTES = len(_MAGIC) + 8, 32
_ALIGNMENT_BYTES = 64
# Size of the parts in which a file is verified.
_PART_BYTES = 1 << 18


@dataclass(frozen=True)
class PackedData:
    """The contents of a file: a JSON document and named arrays."""

    document: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class StoredArray:
    """The place of an array in a file.

    Args:
        name: name of the array.
        dtype: type of its items.
        shape: its shape.
        offset: bytes from the start of the file.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        """Size of the array in bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class PackedHeader:
    """The header of a file.

    Args:
        document: the JSON document.
        places: places of the arrays.
        bytes: size of the whole file.
    """

    document: dict[str, Any]
    places: tuple[StoredArray, ...]
    bytes: int


@dataclass(frozen=True)
class MappedFile:
    """A memory-mapped file: its arrays are read from disk when they are used, and are read-only."""

    document: dict[str, Any]
    arrays: dict[str, np.ndarray]
    mapping: mmap.mmap

    def drop_pages(self) -> None:
        """Release the memory of pages that were read; they are read again when they are used."""
        drop_pages(self.mapping)


def pack(saved: PackedData) -> bytes:
    """Pack a document and arrays into the bytes of a file."""
    arrays = {name: np.asarray(array) for name, array in saved.arrays.items()}
    stored = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    offsets, at = {}, 0
    for name in stored:
        offsets[name] = at
        at += arrays[name].nbytes
    layout = [[name, str(a.dtype), list(a.shape), offsets[name]] for name, a in arrays.items()]
    header = json.dumps({"document": saved.document, "arrays": layout}).encode("utf-8")
    header += b" " * (-(_START_BYTES + len(header)) % _ALIGNMENT_BYTES)
    # As plain bytes: not every dtype supports the buffer protocol.
    raw: list[Any] = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8) for name in stored]
    parts: list[Any] = [_MAGIC, struct.pack("<Q", len(header)), header, *raw]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def unpack(content: bytes, path: Path) -> PackedData:
    """Unpack the bytes of a file.

    Args:
        content: the bytes.
        path: the file, for messages.

    Raises:
        StorageError: the content differs from what was written.
    """
    body = memoryview(content)[:-_DIGEST_BYTES]
    if hashlib.sha256(body).digest() != content[-_DIGEST_BYTES:]:
        raise _damage_error(path)
    header = _parse_header(io.BytesIO(content), len(content), path)
    return PackedData(header.document, {place.name: _view_array(content, place) for place in header.places})


def read_packed_header(path: Path) -> PackedHeader:
    """Read the header of a file without its arrays; the sha256 is not verified.

    Raises:
        StorageError: it is not a packed file, or its length is wrong.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return _parse_header(file, os.fstat(file.fileno()).st_size, path)


def map_file(path: Path) -> MappedFile:
    """Memory-map a file without reading its arrays; the sha256 is not verified.

    Raises:
        StorageError: it is not a packed file, or its length is wrong.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        header = _parse_header(file, os.fstat(file.fileno()).st_size, path)
        mapping = mmap.mmap(file.fileno(), header.bytes, access=mmap.ACCESS_READ)
    arrays = {place.name: _view_array(mapping, place) for place in header.places}
    return MappedFile(header.document, arrays, mapping)


def verify_file(path: Path) -> None:
    """Verify the sha256 of a file, reading it in parts.

    Raises:
        StorageError: the file is damaged.
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
        while left > 0 and (part := file.read(min(_PART_BYTES, left))):
            digest.update(part)
            left -= len(part)
        if left != 0 or file.read() != digest.digest():
            raise _damage_error(path)


def parse_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype with a name, including `bfloat16`.

    Raises:
        TypeError: there is no numeric dtype of that name.
    """
    try:
        dtype = np.dtype(name)
    except TypeError:
        # ml_dtypes is installed with TensorFlow and adds its dtypes to NumPy.
        import ml_dtypes

        dtype = np.dtype(getattr(ml_dtypes, name, name))
    if dtype.hasobject:
        raise TypeError(f"{name} is not a numeric dtype")
    return dtype


def _parse_header(file: IO[bytes], size: int, path: Path) -> PackedHeader:
    try:
        start = file.read(_START_BYTES)
        (length,) = struct.unpack("<8xQ", start)
        begin, end = _START_BYTES + length, size - _DIGEST_BYTES
        if not start.startswith(_MAGIC) or begin > end:
            raise ValueError
        header = json.loads(file.read(length))
        places, last = [], begin
        for name, dtype, shape, *offset in header["arrays"]:
            # The oldest files have no offsets: their arrays follow one another.
            at = begin + int(offset[0]) if offset else last
            place = StoredArray(name, parse_dtype(dtype), tuple(map(int, shape)), at)
            if min((0, *place.shape)) < 0 or not begin <= at <= at + place.bytes <= end:
                raise ValueError
            places.append(place)
            last = max(last, at + place.bytes)
        if last != end or not isinstance(header["document"], dict):
            raise ValueError
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error):
        raise _damage_error(path) from None
    return PackedHeader(header["document"], tuple(places), size)


def _view_array(content: bytes | mmap.mmap, place: StoredArray) -> np.ndarray:
    count = math.prod(place.shape)
    return np.frombuffer(content, place.dtype, count, place.offset).reshape(place.shape)


def _damage_error(path: Path) -> StorageError:
    return StorageError(f"{path}: the file is damaged", location=str(path))
