"""Storage for data that is read once: in memory, or in an unnamed temporary file."""

from __future__ import annotations

import array
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kdcli.errors import StorageError
from kdcli.runs.mapped_arrays import count_rows_at_once, release_array
from kdcli.runs.writer import storage_error

# Byte strings up to this total size stay in memory.
_MEMORY_BYTES = 64_000_000


def create_array(shape: tuple[int, ...], dtype: DTypeLike, *, resident_bytes: int) -> np.ndarray:
    """Create an uninitialized array, mapped from a temporary file if it is larger than `resident_bytes`.

    Raises:
        StorageError: not enough disk space.
    """
    needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if needed <= resident_bytes:
        return np.empty(shape, dtype)
    folder = Path(tempfile.gettempdir())
    try:
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # The file never has a name, so its space is freed however the process ends.
        with tempfile.TemporaryFile(prefix="kd-", dir=folder) as file:
            # Space is allocated now, because a full disk under a mapped file kills the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, needed)
            return np.memmap(file, dtype, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
    except OSError as error:
        raise storage_error(folder, error, needed=needed) from error


@dataclass(frozen=True, eq=False)
class StoredBytes:
    """Consecutive byte strings, read by number.

    Args:
        content: all bytes, in memory or mapped.
        ends: (n + 1,) offsets: the start of each string, and the end of the last one.
    """

    content: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends) - 1

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Read the byte strings with the given numbers."""
        begins, ends = self.ends[rows], self.ends[rows + 1]
        step = count_rows_at_once(int(np.max(ends - begins, initial=0)))
        found = []
        for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True), start=1):
            found.append(self.content[begin:end].tobytes())
            if number % step == 0 or number == len(rows):
                release_array(self.content)
        return found

    def select_range(self, rows: slice) -> StoredBytes:
        """Select consecutive byte strings, in the same store."""
        return StoredBytes(self.content, self.ends[rows.start : rows.stop + 1])

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the lengths, then all bytes."""
        yield np.diff(self.ends)
        yield self.content[self.ends[0] : self.ends[-1]]


class BytesWriter:
    """Writes byte strings one by one; above `memory_bytes` they move to an unnamed temporary file.

    Args:
        memory_bytes: byte strings up to this total size stay in memory.
    """

    def __init__(self, *, memory_bytes: int = _MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._file: Any = io.BytesIO()
        self._on_disk = False
        self._ends = array.array("q", [0])

    def __enter__(self) -> BytesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing a file on a full disk tries to write its buffer once more.
        with suppress(OSError):
            self._file.close()

    def append(self, content: bytes) -> None:
        """Write the next byte string.

        Raises:
            StorageError: the disk is full.
        """
        total = self._ends[-1] + len(content)
        try:
            if not self._on_disk and total > self._memory_bytes:
                buffered = self._file.getvalue()
                self._file, self._on_disk = tempfile.TemporaryFile(prefix="kd-"), True
                self._file.write(buffered)
            self._file.write(content)
        except OSError as error:
            raise _disk_error(error, total) from error
        self._ends.append(total)

    def finish(self) -> StoredBytes:
        """Return all byte strings for reading.

        Raises:
            StorageError: the disk is full.
        """
        ends = np.array(self._ends, np.int64)
        if not self._on_disk:
            return StoredBytes(np.frombuffer(self._file.getvalue(), np.uint8), ends)
        try:
            self._file.flush()
            return StoredBytes(np.memmap(self._file, np.uint8, "r", shape=(int(ends[-1]),)), ends)
        except OSError as error:
            raise _disk_error(error, int(ends[-1])) from error


def _disk_error(error: OSError, needed: int) -> StorageError:
    return storage_error(Path(tempfile.gettempdir()), error, needed=needed)
