"""One file for a JSON document and named arrays: read again whole, by its header, or mapped; never damaged.

A file is the magic, the header's length, the header (JSON, padded with spaces so that the arrays begin at a
multiple of 64), the raw arrays (larger items first, so that each is aligned) and a sha256 over all of it.
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
# Magic and the header's length; the sha256.
_START, _END = len(_MAGIC) + 8, 32
_ALIGNED = 64
# Bytes of a file that are in memory at once while it is checked.
_PART = 1 << 18


@dataclass(frozen=True)
class PackedData:
    """What a file holds: a JSON document and named arrays."""

    document: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class StoredArray:
    """Where an array lies: bytes from the start of the file."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        """Of the array."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class PackedHeader:
    """What a file says about itself; `bytes` is the size of the whole file."""

    document: dict[str, Any]
    places: tuple[StoredArray, ...]
    bytes: int


@dataclass(frozen=True)
class MappedFile:
    """A file whose arrays are read where they lie, when they are looked at; read-only."""

    document: dict[str, Any]
    arrays: dict[str, np.ndarray]
    mapping: mmap.mmap

    def drop_pages(self) -> None:
        """Give back the memory of what was read; it is read again when it is looked at."""
        drop_pages(self.mapping)


def pack(saved: PackedData) -> bytes:
    """The bytes of a file."""
    arrays = {name: np.asarray(array) for name, array in saved.arrays.items()}
    stored = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    offsets, at = {}, 0
    for name in stored:
        offsets[name] = at
        at += arrays[name].nbytes
    layout = [[name, str(a.dtype), list(a.shape), offsets[name]] for name, a in arrays.items()]
    header = json.dumps({"document": saved.document, "arrays": layout}).encode("utf-8")
    header += b" " * (-(_START + len(header)) % _ALIGNED)
    # As plain bytes: not every type of number has a buffer.
    raw: list[Any] = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8) for name in stored]
    parts: list[Any] = [_MAGIC, struct.pack("<Q", len(header)), header, *raw]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def unpack(content: bytes, path: Path) -> PackedData:
    """What a file holds, from its bytes; `path` is for the message.

    Raises:
        StorageError: anything about it is not as it was written.
    """
    body = memoryview(content)[:-_END]
    if hashlib.sha256(body).digest() != content[-_END:]:
        raise _damaged(path)
    header = _header_of(io.BytesIO(content), len(content), path)
    return PackedData(header.document, {place.name: _array(content, place) for place in header.places})


def read_packed_header(path: Path) -> PackedHeader:
    """What a file says about itself, without its arrays; only its form is checked.

    Raises:
        StorageError: it is no such file, or not as long as it says.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return _header_of(file, os.fstat(file.fileno()).st_size, path)


def map_file(path: Path) -> MappedFile:
    """A file's document, and its arrays without reading them; only its form is checked.

    Raises:
        StorageError: it is no such file, or not as long as it says.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        header = _header_of(file, os.fstat(file.fileno()).st_size, path)
        mapping = mmap.mmap(file.fileno(), header.bytes, access=mmap.ACCESS_READ)
    return MappedFile(header.document, {place.name: _array(mapping, place) for place in header.places}, mapping)


def verify_file(path: Path) -> None:
    """Compare a file with its sha256, a part at a time.

    Raises:
        StorageError: they differ.
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - _END
        while left > 0 and (part := file.read(min(_PART, left))):
            digest.update(part)
            left -= len(part)
        if left != 0 or file.read() != digest.digest():
            raise _damaged(path)


def parse_dtype(name: str) -> np.dtype:
    """The NumPy type of a name, `bfloat16` included.

    Raises:
        TypeError: there is no such type of number.
    """
    try:
        found = np.dtype(name)
    except TypeError:
        # TensorFlow brings it; NumPy knows its types once it is imported.
        import ml_dtypes

        found = np.dtype(getattr(ml_dtypes, name, name))
    if found.hasobject:
        raise TypeError(f"{name} is no type of number")
    return found


def _header_of(file: IO[bytes], size: int, path: Path) -> PackedHeader:
    try:
        start = file.read(_START)
        (length,) = struct.unpack("<8xQ", start)
        begin, end = _START + length, size - _END
        if not start.startswith(_MAGIC) or begin > end:
            raise ValueError
        header = json.loads(file.read(length))
        places, last = [], begin
        for name, dtype, shape, *offset in header["arrays"]:
            # In the oldest files arrays lie one after the other, and their place is not written.
            at = begin + int(offset[0]) if offset else last
            place = StoredArray(name, parse_dtype(dtype), tuple(map(int, shape)), at)
            if min((0, *place.shape)) < 0 or not begin <= at <= at + place.bytes <= end:
                raise ValueError
            places.append(place)
            last = max(last, at + place.bytes)
        if last != end or not isinstance(header["document"], dict):
            raise ValueError
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error):
        raise _damaged(path) from None
    return PackedHeader(header["document"], tuple(places), size)


def _array(content: bytes | mmap.mmap, place: StoredArray) -> np.ndarray:
    count = math.prod(place.shape)
    return np.frombuffer(content, place.dtype, count, place.offset).reshape(place.shape)


def _damaged(path: Path) -> StorageError:
    return StorageError(f"{path}: the file is damaged", location=str(path))
