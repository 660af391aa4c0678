"""Arrays of a `.npz` file: large ones are memory-mapped, or unpacked once into a mapped temporary file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.npyio import NpzFile

from kdcli.data.store import create_array
from kdcli.errors import DataError
from kdcli.runs.mapped_arrays import PART_BYTES, iterate_parts, release_array
from kdcli.screening.pointer import refuse_pointer

# Arrays up to this size are read into memory.
_IN_MEMORY_BYTES = 64_000_000
# Local file header of a zip member: its signature, and the offset of the lengths of file name and extra field.
_SIGNATURE, _LENGTHS_OFFSET = b"PK\x03\x04", 26
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: Path, *, in_memory_bytes: int = _IN_MEMORY_BYTES) -> dict[str, np.ndarray]:
    """Read the arrays of a file by name; pickled objects are refused.

    Args:
        path: the `.npz` file.
        in_memory_bytes: arrays up to this size are read into memory.

    Raises:
        DataError: the file is missing, damaged, not a `.npz` file, or contains pickled objects.
        StorageError: not enough disk space to unpack a large compressed array.
    """
    refuse_pointer(path, DataError)
    key = None
    try:
        # NumPy takes any file that is not a zip archive for a pickle, and leaves it open when it fails.
        with open(path, "rb") as content:
            if not zipfile.is_zipfile(content):
                raise zipfile.BadZipFile("not a zip archive, or truncated")
            content.seek(0)
            with np.load(content, allow_pickle=False) as file:
                arrays = {}
                for key in file.files:
                    arrays[key] = _read_array(path, file, key, in_memory_bytes)
                return arrays
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint="--data NAME or --data FILE.npz") from None
    except ValueError as error:
        if "pickle" in str(error):
            raise DataError(
                f"{path}: {key} contains pickled objects, which can run code",
                hint=f"np.savez stores plain arrays: make {key} numeric, or convert texts with astype(str)",
            ) from None
        raise DataError(f"{path}: not a readable .npz file: {error}") from None
    # A password raises RuntimeError, and so does (as NotImplementedError) an unknown compression method.
    except (OSError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        hint = "copy the file again, or write it with np.savez"
        raise DataError(f"{path}: not a readable .npz file: {error}", hint=hint) from None


def _read_array(path: Path, file: NpzFile, key: str, in_memory_bytes: int) -> np.ndarray:
    assert file.zip is not None
    names = file.zip.namelist()
    member = file.zip.getinfo(f"{key}.npy" if f"{key}.npy" in names else key)
    if member.file_size <= in_memory_bytes:
        return file[key]
    with file.zip.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            return file[key]
        shape, by_columns, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError("object arrays are pickled")
        header_bytes = stream.tell()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if header_bytes + size != member.file_size:
            raise ValueError(f"{key} has {member.file_size - header_bytes:,} bytes, expected {size:,}")
        stored_shape = shape[::-1] if by_columns else shape
        if member.compress_type == zipfile.ZIP_STORED:
            start = _find_content(path, member)
            _check_crc(path, start, member)
            array: np.ndarray = np.memmap(path, dtype, "r", offset=start + header_bytes, shape=stored_shape)
        else:
            array = create_array(stored_shape, dtype, resident_bytes=0)
            _unpack(stream, array)
    return _copy_by_rows(array.T) if by_columns and len(shape) > 1 else array


def _find_content(path: Path, member: zipfile.ZipInfo) -> int:
    """Find the offset in the file at which the content of an uncompressed member begins."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if not header.startswith(_SIGNATURE):
        raise zipfile.BadZipFile(f"no local header for {member.filename}")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, _LENGTHS_OFFSET)
    return member.header_offset + len(header) + name_bytes + extra_bytes


def _check_crc(path: Path, start: int, member: zipfile.ZipInfo) -> None:
    """Check the CRC-32 of a member, as `zipfile` does when it reads one."""
    crc = 0
    content = np.memmap(path, np.uint8, "r", offset=start, shape=(member.file_size,))
    for _, part in iterate_parts(content):
        crc = zlib.crc32(part, crc)
    if crc != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")


def _unpack(stream: IO[bytes], array: np.ndarray) -> None:
    flat = array.reshape(-1).view(np.uint8)
    done = 0
    while part := stream.read(PART_BYTES):
        flat[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
        release_array(array)


def _copy_by_rows(array: np.ndarray) -> np.ndarray:
    """Copy a column-major array row by row: in the file, the values of one example are scattered."""
    copied = create_array(array.shape, array.dtype, resident_bytes=0)
    for start, part in iterate_parts(array):
        copied[start : start + len(part)] = part
        release_array(copied)
    return copied
