"""The arrays of a `.npz` file: large ones stay in it and are mapped, or are unpacked once into a mapped file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.store import create_array
from kdcli.errors import DataError
from kdcli.runs.mapped_arrays import PART_BYTES, iterate_parts, release_array
from kdcli.screening.pointer import refuse_pointer

# Arrays up to this size are read into memory.
MAX_IN_MEMORY_BYTES = 64_000_000
# Of a zip archive: what each member begins with, and where the lengths stand of what comes before its content.
_LOCAL, _LENGTHS = b"PK\x03\x04", 26
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: Path, *, in_memory_bytes: int = MAX_IN_MEMORY_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a file by name; pickled objects are refused.

    Args:
        in_memory_bytes: arrays up to this size are read into memory.

    Raises:
        DataError: missing, no `.npz`, damaged, or with pickled objects.
        StorageError: no room to unpack a large compressed array.
    """
    refuse_pointer(path, DataError)
    key = None
    try:
        # Handed anything but a zip, numpy takes it for a pickle, and leaves the file open when it fails.
        with open(path, "rb") as content:
            if not zipfile.is_zipfile(content):
                raise zipfile.BadZipFile("not a zip archive, or cut off")
            content.seek(0)
            with np.load(content, allow_pickle=False) as file:
                arrays = {}
                for key in file.files:
                    arrays[key] = _array(path, file, key, in_memory_bytes)
                return arrays
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint="--data NAME or --data FILE.npz") from None
    except ValueError as error:
        if "pickle" in str(error):
            message = f"{path}: {key} holds pickled objects, which could run code"
            hint = f"np.savez stores plain arrays: make {key} numbers of one shape, or texts by astype(str)"
            raise DataError(message, hint=hint) from None
        raise DataError(f"{path}: not a readable .npz file: {error}") from None
    # A password is a RuntimeError, and so is (as NotImplementedError) a way of packing that nobody knows.
    except (OSError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        hint = "copy it again, or write it with np.savez"
        raise DataError(f"{path}: not a readable .npz file: {error}", hint=hint) from None


def _array(path: Path, file: Any, key: str, read_bytes: int) -> np.ndarray:
    names = file.zip.namelist()
    member = file.zip.getinfo(f"{key}.npy" if f"{key}.npy" in names else key)
    if member.file_size <= read_bytes:
        return file[key]
    with file.zip.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            return file[key]
        shape, by_columns, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError("object arrays are pickled")
        before = stream.tell()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if before + size != member.file_size:
            raise ValueError(f"{key} has {member.file_size - before} bytes, {size} expected")
        laid_out = shape[::-1] if by_columns else shape
        if member.compress_type == zipfile.ZIP_STORED:
            place = _place(path, member)
            _check_whole(path, place, member)
            array: np.ndarray = np.memmap(path, dtype, "r", offset=place + before, shape=laid_out)
        else:
            array = create_array(laid_out, dtype, resident_bytes=0)
            _unpack(stream, array)
    return _by_rows(array.T) if by_columns and len(shape) > 1 else array


def _place(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the content of a member that is not compressed begins in the file."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if not header.startswith(_LOCAL):
        raise zipfile.BadZipFile(f"{member.filename} does not begin where it should")
    name, extra = struct.unpack_from("<HH", header, _LENGTHS)
    return member.header_offset + len(header) + name + extra


def _check_whole(path: Path, place: int, member: zipfile.ZipInfo) -> None:
    """Compare the checksum of a member, as reading it would."""
    found = 0
    content = np.memmap(path, np.uint8, "r", offset=place, shape=(member.file_size,))
    for _, part in iterate_parts(content):
        found = zlib.crc32(part, found)
    if found != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")


def _unpack(stream: Any, array: np.ndarray) -> None:
    flat = array.reshape(-1).view(np.uint8)
    done = 0
    while part := stream.read(PART_BYTES):
        flat[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
        release_array(array)


def _by_rows(array: np.ndarray) -> np.ndarray:
    """The same array with each row in one place: an example of an array by columns lies all over the file."""
    copied = create_array(array.shape, array.dtype, resident_bytes=0)
    for start, part in iterate_parts(array):
        copied[start : start + len(part)] = part
        release_array(copied)
    return copied
